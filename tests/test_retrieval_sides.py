"""A prompt before queries and documents alike, on pairs: its loss, its run, and who may use it."""

import collections
import functools
import json
import math
import sys
from io import BytesIO, TextIOWrapper

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import GOLDENS, slow
from embedding_models import HERE, NAMES, TEXTS, load, numbers
from sklearn.cluster import KMeans

import prompt_tuning_jax as pt
from prompt_tuning_jax.commands.cli import main
from prompt_tuning_jax.commands.retrieval import index as make_index
from prompt_tuning_jax.commands.retrieval import search
from prompt_tuning_jax.data.collection import Collection, Scored, read_collection
from prompt_tuning_jax.data.text_rows import TextPrompts
from prompt_tuning_jax.evaluation.retrieval.metrics import average_precision
from prompt_tuning_jax.evaluation.retrieval.store import load_store
from prompt_tuning_jax.params import PROMPT_NAME, flatten
from prompt_tuning_jax.training.retrieval.loss import retrieval_gradients
from prompt_tuning_jax.training.retrieval.scoring import (
    RetrievalScoring,
    TextNames,
    check_evaluation,
)
from prompt_tuning_jax.training.retrieval.set_up import batches_of, examples_of, text_names

SIMILARITY = json.loads((GOLDENS / "retrieval" / "similarity.json").read_text())
WORDS = ("river", "stone", "cloud", "bread", "horse", "paper", "glass", "music")
MODEL = str(HERE / "bert" / "model")
NO_NAMES = TextNames(None, None)


def write_pairs(path, count, seed, scored=True):
    """Pairs that name the same word (5), one of two (2), or different ones (0)."""
    rng = np.random.default_rng(seed)
    with open(path, "w") as file:
        for i in range(count):
            one, other, third = (WORDS[j] for j in rng.permutation(len(WORDS))[:3])
            text, score = [(f"it is {one}", 5), (f"{one} or {third}", 2), (other, 0)][i % 3]
            pair = {"text_a": f"not {third} but {one}, no {i}?", "text_b": text}
            if scored or score == 5:
                file.write(json.dumps(pair | ({"score": score} if scored else {})) + "\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder / "train.jsonl", 60, 0)
    write_pairs(folder / "dev.jsonl", 30, 1)
    return folder


def settings(data, directory, **changes):
    how = {"prompt_length": 4, "train_steps": 12, "eval_period": 6, "checkpoint_period": 6}
    own = {"task_kind": "retrieval", "sides": "both", "batch_size": 8, "quiet": True}
    return {"data_dir": str(data), "model_dir": str(directory), **how, **own, **changes}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    directory, model = tmp_path_factory.mktemp("run") / "both", load("bert")
    before = jax.tree.map(np.array, model.params)
    return model, before, directory, pt.train(model=model, **settings(data, directory))


# --- pairs


def test_pairs_are_a_collection(tmp_path):
    lines = ["text_a\ttext_b\tscore", "a\tx\t5", "a\ty\t1", "b\tx\t4", "b\tx\t0", "x\tb\t3.9"]
    (tmp_path / "train.tsv").write_text("\n".join(lines))
    (tmp_path / "dev.jsonl").write_text('{"sentence1": "x", "sentence2": "new", "score": 2}\n')
    found = read_collection(tmp_path)
    assert list(found.queries.values()) == ["a", "b", "x"]
    query = {text: number for number, text in found.queries.items()}
    document = {text: number for number, text in found.documents.items()}
    assert found.grades["train"] == {
        query["a"]: {document["x"]: 1, document["y"]: 0},
        query["b"]: {document["x"]: 1},
        query["x"]: {document["b"]: 0},
    }
    assert found.scored["validation"] == [Scored(query["x"], document["new"], 2.0)]
    assert len(found.scored["train"]) == 5
    lower = read_collection(tmp_path, similar_from=3.9)
    assert lower.grades["train"][query["x"]] == {document["b"]: 1}


def test_pairs_without_scores_all_say_the_same(tmp_path):
    write_pairs(tmp_path / "train.jsonl", 9, 0, scored=False)
    found = read_collection(tmp_path)
    assert not found.scored
    assert {grade for each in found.grades["train"].values() for grade in each.values()} == {1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text_a": "a"}', "no field 'text_b'"),
        (
            '{"text_a": "a", "text_b": "b", "score": "high"}',
            "line 1: the score 'high' is no number",
        ),
        ('{"text_a": "a", "text_b": "b", "score": NaN}', "no number|not valid JSON"),
        ('{"text_a": "a", "text_b": "b"}\n{"text_a": "a", "text_b": "b", "score": 1}', "some have"),
        ("", "holds no pairs"),
    ],
)
def test_what_is_wrong_with_pairs_is_said(tmp_path, text, message):
    (tmp_path / "train.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_collection(tmp_path)


# --- the correlation


@pytest.mark.parametrize("name", NAMES)
def test_correlations_are_those_of_sentence_transformers(name):
    texts = {str(i): text for i, text in enumerate(TEXTS)}
    rows = zip(SIMILARITY["pairs"], SIMILARITY["scores"], strict=True)
    pairs = [Scored(str(one), str(other), score) for (one, other), score in rows]
    collection = Collection(texts, texts, {"validation": {}}, scored={"validation": pairs})
    config = pt.TrainConfig(task_kind="retrieval", sides="both")
    model = load(name)
    scoring = RetrievalScoring(config, collection, None, "pairs", model.config, NO_NAMES)
    scores, _ = scoring.scores(model, None)
    expected = {metric: 100 * x for metric, x in SIMILARITY[name].items()}
    assert scores == pytest.approx(expected, abs=1e-3)
    assert scoring.metric == "spearman"


@pytest.mark.parametrize("name", NAMES)
def test_pairs_that_are_the_same_or_not_are_ranked(name):
    """By trec_eval's average precision, which is scikit-learn's where no two cosines are equal."""
    texts = {str(i): text for i, text in enumerate(TEXTS)}
    rows = zip(SIMILARITY["pairs"], SIMILARITY["scores"], strict=True)
    pairs = [Scored(str(one), str(other), float(score > 2)) for (one, other), score in rows]
    collection = Collection(texts, texts, {"validation": {}}, scored={"validation": pairs})
    config = pt.TrainConfig(task_kind="retrieval", sides="both")
    model = load(name)
    scoring = RetrievalScoring(config, collection, None, "pairs", model.config, NO_NAMES)
    scores, _ = scoring.scores(model, None)
    vectors = model.embed(TEXTS)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = [vectors[int(pair.query)] @ vectors[int(pair.document)] for pair in pairs]
    grades = [int(pairs[i].score) for i in np.argsort(cosines)[::-1]]
    assert 0 < sum(grades) < len(grades)
    expected = 100 * average_precision(grades, grades, len(grades))
    assert scores == {"average_precision": pytest.approx(expected)}
    assert scoring.metric == "average_precision"


@pytest.mark.parametrize("name", NAMES)
def test_clusters_of_texts_are_held_against_their_labels(name):
    """By Rosenberg & Hirschberg's definition, of the clusters that scikit-learn finds."""
    model, labels = load(name), ["one" if i % 3 else "two" for i in range(len(TEXTS))]
    texts = {str(i): text for i, text in enumerate(TEXTS)}
    grades = {str(i): {label: 1} for i, label in enumerate(labels)}
    documents = {"one": "the first", "two": "the second"}
    collection = Collection(documents, texts, {"validation": grades})
    config = pt.TrainConfig(task_kind="retrieval", metric=["v_measure", "recall@1"])
    scoring = RetrievalScoring(config, collection, None, "labels", model.config, NO_NAMES)
    scores, _ = scoring.scores(model, None)
    vectors = model.embed(TEXTS)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = KMeans(2, n_init=10, random_state=0).fit_predict(vectors)

    def entropy(*names):
        counts = collections.Counter(zip(*names, strict=True)).values()
        return -sum(n / len(TEXTS) * math.log(n / len(TEXTS)) for n in counts)

    both = entropy(labels, found)
    homogeneity = 1 - (both - entropy(found)) / entropy(labels)
    completeness = 1 - (both - entropy(labels)) / entropy(found)
    expected = 200 * homogeneity * completeness / (homogeneity + completeness)
    assert scores["v_measure"] == pytest.approx(expected)
    assert set(scores) == {"v_measure", "recall@1"}
    grades["0"] = {"one": 1, "two": 1}
    with pytest.raises(ValueError, match="the query '0' has 2 relevant documents"):
        check_evaluation(config, collection)


# --- the loss


def first_batch(model, data, **changes):
    config = pt.TrainConfig(**settings(data, "unused", **changes))
    collection = read_collection(data)
    examples = examples_of(config, collection)
    return config, next(batches_of(config, examples, None, model, NO_NAMES))


@pytest.mark.parametrize("name", ["bert", slow("sentence_t5")])
def test_the_loss_passes_the_prompt_on_both_sides(data, name):
    model = load(name)
    config, batch = first_batch(model, data)
    prompt = jnp.asarray(numbers(name)["prefix"][:4])
    gradients, flat = jax.jit(retrieval_gradients(config, model)), flatten(model.params)
    (total, count), found = gradients({PROMPT_NAME: prompt}, flat, batch, None)

    @functools.partial(jax.jit, static_argnums=1)
    def vectors(prompt, rows):
        some = {key: batch[key][slice(*rows)] for key in ("tokens", "skipped")}
        return model.embedded(model.params, prompt, some)

    def loss(of_queries, of_documents):
        one, other = vectors(of_queries, (0, 8)), vectors(of_documents, (8, 16))
        scores = jnp.where(batch["allowed"], one @ other.T / 0.05, -jnp.inf)
        return -jnp.sum(jnp.diagonal(jax.nn.log_softmax(scores, axis=1)))

    one, other = (np.array(vectors(prompt, (a, a + 8))) for a in (0, 8))
    by_hand = 0.0
    for i in range(8):
        scores = np.float64(one[i] @ other.T / 0.05)[batch["allowed"][i]]
        by_hand += np.log(np.exp(scores - one[i] @ other[i] / 0.05).sum())
    assert count == 8
    assert total == pytest.approx(by_hand, rel=1e-4)
    sides = jax.jit(jax.grad(loss, argnums=(0, 1)))(prompt, prompt)
    assert min(float(jnp.abs(side).max()) for side in sides) > 1e-3
    scale = np.abs(found[PROMPT_NAME]).max()
    np.testing.assert_allclose(found[PROMPT_NAME], sides[0] + sides[1], atol=1e-4 * scale)


def test_texts_that_are_the_same_are_not_told_apart(tmp_path):
    lines = ['{"text_a": "x", "text_b": "y"}', '{"text_a": "z", "text_b": "x"}']
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    model = load("bert")
    _, batch = first_batch(model, tmp_path, batch_size=2)
    own = model.tokenize(["x"])["tokens"][0]
    rows = np.flatnonzero([(row[: len(own)] == own).all() for row in batch["tokens"]])
    query, document = int(rows[rows < 2][0]), int(rows[rows >= 2][0]) - 2
    assert batch["allowed"].diagonal().all()
    assert not batch["allowed"][query, document]
    assert batch["allowed"].sum() == 3


# --- the run


def test_only_the_prompt_moves_and_early_stopping_sees_the_correlation(trained, data):
    model, before, directory, result = trained
    jax.tree.map(np.testing.assert_array_equal, model.params, before)
    jax.tree.map(np.testing.assert_array_equal, result.model.params, before)
    start, last = (pt.load_prompt(directory / "prompts" / step) for step in ("0", "12"))
    assert not np.array_equal(start.values, last.values)
    assert not (directory / "index").exists()
    best = pt.load_prompt(directory / "best")
    facts = ("sides", "pooling", "normalizes", "pool_prompt")
    assert [best.metadata[name] for name in facts] == ["both", ["mean"], True, False]
    assert best.metadata["step"] == max(result.history, key=lambda s: s["spearman"])["step"]
    collection = read_collection(data)
    pairs = collection.scored["validation"]
    texts = [(collection.queries[a], collection.documents[b]) for a, b, _ in pairs]
    one, other = (model.embed(list(side), best) for side in zip(*texts, strict=True))
    cosines = (one * other).sum(axis=1)
    expected = np.corrcoef(cosines, [pair.score for pair in pairs])[0, 1]
    assert best.metadata["scores"]["pearson"] == pytest.approx(100 * expected, abs=1e-3)


def test_it_learns_what_says_the_same(trained, data):
    """The loss of the training pairs falls."""
    model, _, directory, _ = trained
    config, batch = first_batch(model, data)
    gradients, flat = jax.jit(retrieval_gradients(config, model)), flatten(model.params)
    start, last = (
        gradients(
            {PROMPT_NAME: jnp.asarray(pt.load_prompt(directory / name).values)}, flat, batch, None
        )
        for name in ("prompts/0", "last")
    )
    assert last[0][0] < start[0][0]


def test_resumed_is_uninterrupted(trained, data, tmp_path):
    model, _, whole, _ = trained
    pt.train(model=model, **settings(data, tmp_path / "parts", train_steps=6))
    pt.train(model=model, **settings(data, tmp_path / "parts"))
    for name in ("best", "last", "prompts/12"):
        one, other = (pt.load_prompt(each / name).values for each in (whole, tmp_path / "parts"))
        np.testing.assert_array_equal(one, other)


def test_text_prompts_stand_before_both_sides_alike(data, tmp_path):
    names = TextPrompts({"query": "ask: ", "document": "text: "})
    model = load("bert").replace(text_prompts=names)
    for given, expected in (({}, "query"), ({"document_name": "document"}, "document")):
        config = pt.TrainConfig(**settings(data, tmp_path, **given))
        assert text_names(config, model) == ("query", expected)
    result = pt.train(model=model, **settings(data, tmp_path, **given, train_steps=1))
    pairs, found = read_collection(data).scored["validation"], read_collection(data)
    sides = [found.queries[p.query] for p in pairs], [found.documents[p.document] for p in pairs]
    one, other = (
        model.embed(side, result.prompt, text_prompt=before)
        for side, before in zip(sides, ("ask: ", "text: "), strict=True)
    )
    expected = np.corrcoef((one * other).sum(axis=1), [pair.score for pair in pairs])[0, 1]
    assert result.history[-1]["pearson"] == pytest.approx(100 * expected, abs=1e-3)


@pytest.mark.slow
def test_several_at_once_and_hard_negatives(data, tmp_path):
    model, how = load("bert"), {"hard_negatives": 1, "metric": ["recall@1", "spearman"]}
    runs = {"zero": {"seed": 0}, "one": {"seed": 1}}
    found = pt.train_many(runs, model=model, **settings(data, tmp_path / "many", **how))
    alone = pt.train(model=model, **settings(data, tmp_path / "alone", **how))
    one, other = found["zero"].history[-1], alone.history[-1]
    assert one["recall@1"] == pytest.approx(other["recall@1"])
    values = [pt.load_prompt(tmp_path / each / "last").values for each in ("many/zero", "alone")]
    np.testing.assert_allclose(*values, atol=1e-4)
    assert not (tmp_path / "many" / "index").exists()


def test_what_cannot_be_is_said(data, tmp_path):
    model = load("bert")
    for changes, message in (
        ({"index": "index"}, "leave index out"),
        ({"sides": "documents"}, "query, both"),
        ({"eval_split": "test"}, "no qrels of the split 'test'|has none"),
        ({"task_kind": "text"}, "sides is for task_kind=retrieval"),
        (
            {"metric": "kendall"},
            "of pairs with scores spearman, pearson, average_precision, or of labels v_measure",
        ),
        ({"metric": "average_precision"}, "have \\d+ different scores: take spearman"),
    ):
        with pytest.raises(ValueError, match=message):
            pt.train(model=model, **settings(data, tmp_path / "run", **changes))
    write_pairs(tmp_path / "train.jsonl", 30, 0, scored=False)
    write_pairs(tmp_path / "dev.jsonl", 30, 0, scored=False)
    for metric in ("pearson", ["recall@1", "spearman"]):
        with pytest.raises(ValueError, match="has none in the split 'validation'"):
            pt.train(model=model, **settings(tmp_path, tmp_path / "run", metric=metric))


@pytest.mark.slow
def test_a_query_side_may_be_tuned_on_pairs_too(data, tmp_path):
    how = {"sides": "query", "train_steps": 2, "metric": ["spearman", "ndcg@10"]}
    result = pt.train(model=load("bert"), **settings(data, tmp_path / "run", **how))
    assert {"spearman", "ndcg@10"} <= result.history[-1].keys()
    assert len(load_store(tmp_path / "run" / "index")) == len(read_collection(data).documents)


def test_what_a_run_that_is_refused_made_does_not_stay(data, tmp_path):
    directory = tmp_path / "run"
    pt.train(model=load("bert"), **settings(data, directory, train_steps=1, eval_period=1))
    with pytest.raises(ValueError, match="sides"):
        pt.train(model=load("bert"), **settings(data, directory, sides="query"))
    assert not (directory / "index").exists()


# --- who may use it


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """Prompts of both kinds, documents, and an index without a prompt and one with the first."""
    folder, model = tmp_path_factory.mktemp("used"), load("bert")
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": word, "text": f"the {word}"}) + "\n" for word in WORDS)
    )
    for sides, scale in (("both", 1), ("query", 1), ("other", 2)):
        facts = {"sides": "both" if sides == "other" else sides, "base_model": MODEL}
        prompt = pt.TunedPrompt(scale * numbers("bert")["prefix"])
        pt.save_prompt(folder / sides, prompt, **model.identity, **facts)
    words = ["--model", MODEL, "--documents", str(folder / "corpus.jsonl"), "--output"]
    make_index.main([*words, str(folder / "plain")])
    make_index.main([*words, str(folder / "prompted"), "--prompt", str(folder / "both")])
    return folder


def test_an_index_with_a_prompt_has_documents_behind_it(used):
    model, prompt = load("bert"), numbers("bert")["prefix"]
    texts = [f"the {word}" for word in WORDS]
    plain, prompted = (load_store(used / name).vectors for name in ("plain", "prompted"))
    np.testing.assert_allclose(plain, model.embed(texts), atol=1e-6)
    np.testing.assert_allclose(prompted, model.embed(texts, prompt), atol=1e-6)


@pytest.mark.parametrize(
    ("index", "prompt", "refusal"),
    [
        ("plain", None, None),
        ("plain", "query", None),
        ("plain", "both", "give it to `prompt-tuning index`"),
        ("prompted", "both", None),
        ("prompted", "other", "would be with another"),
        ("prompted", "query", None),  # the same rows: it is the same prompt
        ("prompted", None, "would be with no prompt"),
    ],
)
def test_an_index_is_asked_with_its_own_prompt(used, capsys, index, prompt, refusal):
    words = ["the rain", "--index", str(used / index), "--json"]
    words += ["--prompt", str(used / prompt)] if prompt else []
    if refusal:
        with pytest.raises(ValueError, match=refusal):
            search.main(words)
        return
    search.main(words)
    found = json.loads(capsys.readouterr().out)["documents"][0]
    query = load("bert").embed(["the rain"], numbers("bert")["prefix"] if prompt else None)[0]
    scores = load_store(used / index).vectors @ query
    assert found["_id"] == WORDS[int(scores.argmax())]


def test_an_index_has_the_text_prompt_that_its_prompt_was_tuned_with(tmp_path, monkeypatch):
    names = TextPrompts({"query": "ask: ", "document": "text: "})
    model = load("bert").replace(text_prompts=names)
    monkeypatch.setattr(make_index, "load_embedding_model", lambda *_, **__: model)
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d", "text": "tea"}\n')
    words = ["--model", MODEL, "--documents", str(tmp_path / "corpus.jsonl"), "--output"]
    for name in ("query", None):
        facts = {"query_name": "query", "document_name": name, "sides": "both"}
        prompt = pt.TunedPrompt(numbers("bert")["prefix"])
        pt.save_prompt(tmp_path / "prompt", prompt, **model.identity, **facts)
        make_index.main([*words, str(tmp_path / "index"), "--prompt", str(tmp_path / "prompt")])
        expected = model.embed(["tea"], numbers("bert")["prefix"], name=name)
        np.testing.assert_allclose(load_store(tmp_path / "index").vectors, expected, atol=1e-6)


def test_documents_go_without_a_prompt_of_queries(used, data, tmp_path):
    words = ["--model", MODEL, "--documents", str(used / "corpus.jsonl"), "--output"]
    with pytest.raises(ValueError, match="was tuned for queries, and documents keep"):
        make_index.main([*words, str(tmp_path / "index"), "--prompt", str(used / "query")])
    assert not (tmp_path / "index").exists()
    changes = {"index": used / "prompted", "sides": "query"}
    with pytest.raises(ValueError, match="prompted were embedded with a prompt"):
        pt.train(model=load("bert"), **settings(data, tmp_path, **changes))


def test_a_prompt_of_another_pooling_is_refused(trained):
    _, _, directory, _ = trained
    best = pt.load_prompt(directory / "best")
    other = load("bert", pooling="cls")
    with pytest.raises(ValueError, match="pooling mean, and the model makes them with cls"):
        other.embed(["tea"], best)
    with pytest.raises(ValueError, match="or set allow_prompt_mismatch"):
        other.check(best)
    assert other.embed(["tea"], best.for_any_model()).shape == (1, 32)
    with pytest.raises(ValueError, match="normalizes True, and the model makes them with False"):
        load("bert", normalize=False).embed(["tea"], best)


def test_a_model_that_answers_says_what_such_a_prompt_is_for(trained, tmp_path, capsys):
    _, _, directory, _ = trained
    (tmp_path / "texts.txt").write_text("tea\n")
    with pytest.raises(SystemExit):
        main(
            ["infer", "--prompt", str(directory / "best"), "--input_file", f"{tmp_path}/texts.txt"]
        )
    told = capsys.readouterr().err
    assert "use it with `prompt-tuning embed` or `prompt-tuning search`" in told


def test_standard_input_in_another_encoding(used, tmp_path, monkeypatch, capsys):
    def given(text):
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(text.encode("utf-16"))))

    given('{"_id": "d", "text": "thé"}\n')
    make_index.main(["--model", MODEL, "--output", str(tmp_path / "i"), "--encoding", "utf-16"])
    assert load_store(tmp_path / "i").texts == ["thé"]
    capsys.readouterr()
    given("thé\n")
    search.main(["--index", str(tmp_path / "i"), "--json", "--encoding", "utf-16"])
    assert json.loads(capsys.readouterr().out)["query"] == "thé"
