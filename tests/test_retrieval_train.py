"""Training the query side of an embedding model: only the prompt moves, and it finds more."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import slow
from embedding_models import load, numbers

import prompt_tuning_jax as pt
from prompt_tuning_jax.data.collection import read_collection
from prompt_tuning_jax.data.text_rows import TextPrompts
from prompt_tuning_jax.evaluation.retrieval.store import load_store
from prompt_tuning_jax.training.retrieval.batches import BATCHES, Examples, RetrievalBatches
from prompt_tuning_jax.training.retrieval.scoring import scores_of
from prompt_tuning_jax.training.retrieval.set_up import examples_of, with_rate

WORDS = ("river", "stone", "cloud", "bread", "horse", "paper", "glass", "music")


def write_collection(folder):
    """Each word has a document, and queries that say it among others."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with open(folder / "corpus.jsonl", "w") as file:
        for i, word in enumerate(WORDS):
            file.write(json.dumps({"_id": f"d{i}", "text": f"the {word} is {word}."}) + "\n")
    (folder / "qrels").mkdir(exist_ok=True)
    with open(folder / "queries.jsonl", "w") as queries:
        for split, count in (("train", 24), ("dev", 16)):
            with open(folder / "qrels" / f"{split}.tsv", "w") as qrels:
                qrels.write("query-id\tcorpus-id\tscore\n")
                for i in range(count):
                    word = i % len(WORDS)
                    other = WORDS[rng.integers(len(WORDS))]
                    text = f"not {other} but {WORDS[word]}?"
                    queries.write(json.dumps({"_id": f"{split}{i}", "text": text}) + "\n")
                    qrels.write(f"{split}{i}\td{word}\t1\n")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_collection(tmp_path_factory.mktemp("collection"))


def run(model, data, directory, **changes):
    settings = {
        "model": model,
        "task_kind": "retrieval",
        "data_dir": str(data),
        "model_dir": str(directory),
        "prompt_length": 4,
        "train_steps": 12,
        "eval_period": 6,
        "checkpoint_period": 6,
        "batch_size": 8,
        "quiet": True,
    }
    return settings | changes


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "retrieval"
    model = load("bert")
    before = jax.tree.map(np.array, model.params)
    return model, before, directory, pt.train(**run(model, data, directory))


def test_only_the_prompt_moves_and_finds_more(trained, data):
    model, before, directory, result = trained
    jax.tree.map(np.testing.assert_array_equal, model.params, before)
    jax.tree.map(np.testing.assert_array_equal, result.model.params, before)
    start, last = (pt.load_prompt(directory / "prompts" / step).values for step in ("0", "12"))
    assert not np.array_equal(start, last)
    collection, store = read_collection(data), load_store(directory / "index")
    grades = collection.split("train")
    texts = [collection.queries[query] for query in grades]
    found = [scores_of(model.embed(texts, p), grades, store)["mrr@10"] for p in (start, last)]
    assert found[1] > found[0]


def test_documents_keep_their_vectors(trained, data):
    model, _, directory, _ = trained
    store = load_store(directory / "index")
    documents = read_collection(data).documents
    vectors = model.embed(list(documents.values()))
    np.testing.assert_allclose(store.vectors, vectors, atol=1e-6)
    assert store.facts["fingerprint"] == model.fingerprint


def test_what_a_run_says_is_what_its_prompt_scores(trained, data):
    model, _, directory, result = trained
    collection, store = read_collection(data), load_store(directory / "index")
    grades = collection.split("validation")
    texts = [collection.queries[query] for query in grades]
    best = pt.load_prompt(directory / "best")
    assert best.metadata["pool_prompt"] is False
    scores = scores_of(model.embed(texts, best), grades, store)
    assert {name: best.metadata["scores"][name] for name in scores} == pytest.approx(scores)
    assert max(each["ndcg@10"] for each in result.history) == pytest.approx(scores["ndcg@10"])


def test_resumed_is_uninterrupted(trained, data, tmp_path):
    model, _, whole, _ = trained
    directory = tmp_path / "parts"
    pt.train(**run(model, data, directory, train_steps=6))
    kept = (directory / "index" / "vectors.npy").read_bytes()
    pt.train(**run(model, data, directory))
    assert (directory / "index" / "vectors.npy").read_bytes() == kept
    for name in ("best", "last", "prompts/12"):
        one, other = (pt.load_prompt(each / name).values for each in (whole, directory))
        np.testing.assert_array_equal(one, other)


def test_another_run_is_not_continued(trained, data):
    model, _, directory, _ = trained
    with pytest.raises(ValueError, match="contrastive_temperature"):
        pt.train(**run(model, data, directory, contrastive_temperature=0.1))


@pytest.mark.parametrize("name", ["bert", slow("sentence_t5")])
def test_the_step_is_the_gradient_of_the_loss(data, tmp_path, name):
    """The first step, against jax.grad of the loss written out."""
    model = load(name)
    one = {"train_steps": 1, "eval_period": 1, "checkpoint_period": 1, "average_decay": 0.0}
    settings = run(model, data, tmp_path / "a", **one)
    pt.train(**settings)
    collection, store = read_collection(data), load_store(tmp_path / "a" / "index")
    start = pt.load_prompt(tmp_path / "a" / "prompts" / "0").values
    moved = pt.load_prompt(tmp_path / "a" / "prompts" / "1").values
    examples = examples_of(pt.TrainConfig(**settings), collection, store, model, None)
    together = RetrievalBatches(
        examples, list, store.rows, batch_size=8, hard_negatives=0, seed=0
    )._next_pairs()
    queries, rows = examples.pairs[together].T
    batch = model.tokenize([examples.queries[query] for query in queries], prompt_length=4)
    documents = model.embed([store.texts[row] for row in rows])
    names = list(collection.split("train"))

    def loss(prompt):
        scores = model.embedded(model.params, prompt, batch) @ documents.T / 0.05
        total = 0.0
        for i, query in enumerate(queries):
            answers = collection.split("train")[names[query]]
            firsts = [j for j in range(8) if rows[j] not in rows[:j]]  # a document counts once
            others = [j for j in firsts if j != i and store.ids[rows[j]] not in answers]
            total -= jax.nn.log_softmax(scores[i, jnp.array([i, *others])])[0]
        return total

    gradient = jax.grad(loss)(jnp.asarray(start))
    # The first step of the paper's Adafactor is the gradient's sign, but for its clipping.
    np.testing.assert_array_equal(np.sign(start - moved), np.sign(gradient))


@pytest.mark.slow
def test_another_parameterization_leaves_the_same_kind_of_prompt(data, tmp_path):
    how = {"prompt_parameterization": "low_rank", "parameterization_size": 2}
    model = load("bert")
    pt.train(**run(model, data, tmp_path / "run", **how))
    best = pt.load_prompt(tmp_path / "run" / "best")
    assert best.shape == (4, 32)
    model.check(best)


@pytest.mark.slow
def test_several_at_once_are_as_alone(trained, data, tmp_path):
    model, _, alone, _ = trained
    runs = {"zero": {"seed": 0}, "one": {"seed": 1}}
    pt.train_many(runs, **run(model, data, tmp_path / "many"))
    one, other = (
        pt.load_prompt(each / "last").values for each in (alone, tmp_path / "many" / "zero")
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


# --- batches


EXAMPLES = Examples(
    [f"q{i}" for i in range(5)],
    np.array([(0, 0), (1, 1), (2, 2), (2, 3), (3, 1), (4, 4)]),
    [frozenset({0}), frozenset({1}), frozenset({2, 3}), frozenset({1}), frozenset({4})],
    np.array([(5, 6, -1), (5, -1, -1), (6, 7, 8), (5, 6, 7), (0, 1, 2)]),
    np.array([0, 0, 1, 0, 0]),
)


def batches(seed=0, batch_size=4, hard=2, examples=EXAMPLES):
    return RetrievalBatches(
        examples,
        lambda texts: {"tokens": np.array([int(text.strip("q")) for text in texts])[:, None]},
        lambda rows: np.asarray(rows, np.float32)[:, None],
        batch_size=batch_size,
        hard_negatives=hard,
        seed=seed,
    )


def plain(count, answers=1):
    """As many queries, each with answers of its own; the later the longer."""
    pairs = [(i, answers * i + j) for i in range(count) for j in range(answers)]
    rows = [frozenset(row for query, row in pairs if query == i) for i in range(count)]
    texts = [f"{i:0{i + 3}}" for i in range(count)]
    return Examples(texts, np.array(pairs), rows, np.zeros((count, 0), int), np.zeros(count, int))


def taken(made, count, size):
    """The (query, row) pairs of so many batches."""
    found = []
    for _ in range(count):
        batch = next(made)
        queries, rows = batch["tokens"][:, 0], batch["documents"][:size, 0].astype(int)
        found.append(list(zip(queries.tolist(), rows.tolist(), strict=True)))
    return found


def test_a_query_is_in_a_batch_once_and_a_pair_in_an_epoch():
    for examples in (plain(40), plain(12, answers=5), EXAMPLES):
        size = 4
        pairs = set(map(tuple, examples.pairs.tolist()))
        made = batches(batch_size=size, hard=0, examples=examples)
        epochs = len(made._batches_of(0))
        found = taken(made, epochs, size)
        assert all(len({query for query, _ in batch}) == size for batch in found)
        seen = [pair for batch in found for pair in batch]
        assert len(set(seen)) == len(seen) <= len(pairs)
        assert set(seen) <= pairs
        assert len(pairs) - len(seen) < max(size, len(pairs) / 3)
    assert taken(batches(1, 4, 0, plain(40)), 10, 4) != taken(batches(0, 4, 0, plain(40)), 10, 4)


def test_every_pair_comes_in_some_epoch():
    made, pairs = batches(hard=0), set(map(tuple, EXAMPLES.pairs.tolist()))
    assert {pair for batch in taken(made, 40, 4) for pair in batch} == pairs


def test_queries_of_like_length_are_together():
    found = taken(batches(hard=0, examples=plain(4 * BATCHES)), BATCHES, 4)
    queries = [[query for query, _ in batch] for batch in found]
    assert all(max(each) - min(each) == 3 for each in queries)
    assert queries != sorted(queries)


def test_answers_count_neither_for_nor_against_others():
    made = batches()
    for _ in range(20):
        batch = next(made)
        queries, rows = batch["tokens"][:, 0], batch["documents"][:, 0].astype(int)
        drawn = rows[4:].reshape(4, 2)
        counted = batch["allowed"]
        for i, query in enumerate(queries):
            mined = [row for row in EXAMPLES.negatives[query] if row >= 0]
            kept = drawn[i][: min(2, len(mined))]
            assert len(set(kept)) == len(kept)
            assert set(kept) <= set(mined)
            others = [int(rows[column]) for column in np.flatnonzero(counted[i]) if column != i]
            assert counted[i, i]
            assert len(set(others)) == len(others)  # each once
            assert not set(others) & EXAMPLES.answers[query]
            assert set(kept) - EXAMPLES.answers[query] <= set(others)


def test_what_was_judged_to_be_wrong_comes_first():
    made = batches(hard=1)
    for _ in range(10):
        batch = next(made)
        queries, drawn = batch["tokens"][:, 0], batch["documents"][4:, 0].astype(int)
        assert all(drawn[queries == 2] == 6)


def test_batches_go_on_where_they_stood():
    made, other = batches(), batches()
    next(made), next(made)
    other.set_state(json.loads(json.dumps(made.get_state())))
    for one, two in zip(next(made).values(), next(other).values(), strict=True):
        np.testing.assert_array_equal(one, two)


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_dir": None}, "needs data_dir"),
        ({"input_template": "{text}"}, "input_template is for task_kind=text"),
        ({"task_kind": "text", "hard_negatives": 2}, "hard_negatives is for task_kind=retrieval"),
        ({"hard_negatives": 60}, "cannot be drawn of negative_depth 50"),
        ({"metric": "accuracy"}, "no metric of retrieval"),
        ({"pack": True}, "pack is for"),
        ({"query_name": "question"}, "no text prompt 'question'"),
        ({"prompt_init": "nearest:runs"}, "name a prompt's own path"),
        ({"dropout_rate": 0.1}, "has no dropout"),
        ({"batch_size": 32}, "more than the 24 training queries"),
        (
            {"batch_size": 1, "mesh": "data:1,model:-1"},
            "alone in its batch has nothing to be told from",
        ),
        ({"eval_split": "test"}, "no qrels of the split 'test'"),
        ({"feature_lengths": {"inputs": 8, "targets": 8}}, "feature_lengths is for"),
    ],
)
def test_what_cannot_be_trained_is_said(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        pt.train(**run(load("bert"), data, tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "index").exists()


def test_a_query_without_others_needs_hard_negatives(tmp_path):
    folder = write_collection(tmp_path / "data")
    lines = (folder / "qrels" / "train.tsv").read_text().splitlines()
    (folder / "qrels" / "train.tsv").write_text("\n".join(lines[:2]) + "\n")
    alone = {
        "batch_size": 1,
        "mesh": "data:1,model:-1",
        "train_steps": 2,
        "eval_period": 2,
        "checkpoint_period": 2,
    }
    with pytest.raises(ValueError, match="only one for training"):
        pt.train(**run(load("bert"), folder, tmp_path / "a", **alone))
    pt.train(**run(load("bert"), folder, tmp_path / "b", **alone, hard_negatives=2))


@pytest.mark.slow
def test_an_index_of_others_is_refused(trained, data, tmp_path):
    model, _, directory, _ = trained
    with pytest.raises(ValueError, match="vectors of another model"):
        pt.train(**run(load("sentence_t5"), data, tmp_path / "a", index=directory / "index"))
    index = directory / "index"
    with pytest.raises(ValueError, match="document_name is 'query'"):
        pt.train(**run(model, data, tmp_path / "c", index=index, document_name="query"))
    changed = write_collection(tmp_path / "data")
    with open(changed / "corpus.jsonl", "a") as file:
        file.write('{"_id": "more", "text": "more"}\n')
    with pytest.raises(ValueError, match="of other documents"):
        pt.train(**run(model, changed, tmp_path / "b", index=directory / "index"))


def test_the_rate_follows_from_the_models_embeddings():
    model = load("bert")
    size = float(np.sqrt(np.mean(np.square(model.embeddings))))
    given = pt.TrainConfig(task_kind="retrieval")
    assert with_rate(given, model).learning_rate == pytest.approx(0.2 * size, rel=0.05)
    own = dataclasses.replace(given, learning_rate=0.7)
    assert with_rate(own, model) == own


def test_without_a_split_to_evaluate_on_the_last_is_the_best(tmp_path):
    folder = write_collection(tmp_path / "data")
    (folder / "qrels" / "dev.tsv").unlink()
    with pytest.warns(UserWarning, match="nothing is evaluated"):
        result = pt.train(**run(load("bert"), folder, tmp_path / "run", train_steps=2))
    assert not result.history
    with pytest.raises(ValueError, match="patience goes by evaluations"):
        pt.train(**run(load("bert"), folder, tmp_path / "other", patience=2))


def test_runs_have_one_collection_and_one_index(data, tmp_path):
    runs = {"a": {}, "b": {"data_dir": "nowhere"}}
    with pytest.raises(ValueError, match="one data_dir in common"):
        pt.train_many(runs, **run(load("bert"), data, tmp_path / "run"))


@pytest.mark.parametrize("do", [pt.sweep, pt.compare])
def test_what_is_of_text_tasks_alone(data, tmp_path, do):
    given = {"grid": {"seed": [0, 1]}} if do is pt.sweep else {}
    with pytest.raises(ValueError, match="is of text tasks"):
        do(**given, **run(load("bert"), data, tmp_path / "run"))


def test_a_prompt_brings_the_text_prompt_that_it_was_tuned_behind():
    model = load("bert")
    names = TextPrompts({"query": "query: ", "document": "text: "})
    model, prompt = model.replace(text_prompts=names), numbers("bert")["prefix"]
    tuned = pt.TunedPrompt(prompt, "prefix", metadata={"query_name": "query"})
    np.testing.assert_array_equal(
        model.embed(["tea"], tuned), model.embed(["tea"], prompt, name="query")
    )
    other = model.embed(["tea"], tuned, name="document")
    np.testing.assert_array_equal(other, model.embed(["tea"], prompt, name="document"))
    np.testing.assert_array_equal(
        model.embed(["tea"], tuned, text_prompt=""), model.embed(["tea"], prompt)
    )
