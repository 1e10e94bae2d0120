"""Training the query side of an embedding model: only the prompt moves, and it finds more."""

import collections
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import slow
from embedding_models import load

import prompt_tuning_jax as pt
from prompt_tuning_jax.retrieval.collection import read_collection
from prompt_tuning_jax.retrieval.store import load_store
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


def test_the_step_is_the_gradient_of_the_loss(data, tmp_path):
    """The first step, against jax.grad of the loss written out."""
    model = load("sentence_t5")
    one = {"train_steps": 1, "eval_period": 1, "checkpoint_period": 1, "average_decay": 0.0}
    settings = run(model, data, tmp_path / "a", **one)
    pt.train(**settings)
    collection, store = read_collection(data), load_store(tmp_path / "a" / "index")
    start = pt.load_prompt(tmp_path / "a" / "prompts" / "0").values
    moved = pt.load_prompt(tmp_path / "a" / "prompts" / "1").values
    examples = examples_of(pt.TrainConfig(**settings), collection, store, model, None)
    together = RetrievalBatches(
        examples, list, store.rows, batch_size=8, hard_negatives=0, seed=0
    )._together(0)
    queries, rows = examples.pairs[together].T
    batch = model.tokenize([examples.queries[query] for query in queries], prompt_length=4)
    documents = model.embed([store.texts[row] for row in rows])
    names = list(collection.split("train"))

    def loss(prompt):
        scores = model.embedded(model.params, prompt, batch) @ documents.T / 0.05
        total = 0.0
        for i, query in enumerate(queries):
            answers = collection.split("train")[names[query]]
            others = [j for j in range(8) if j != i and store.ids[rows[j]] not in answers]
            total -= jax.nn.log_softmax(scores[i, jnp.array([i, *others])])[0]
        return total

    gradient = jax.grad(loss)(jnp.asarray(start))
    # The first step of the paper's Adafactor is the gradient's sign, but for its clipping.
    np.testing.assert_array_equal(np.sign(start - moved), np.sign(gradient))


@slow
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


def test_every_pair_comes_as_often_and_the_seed_says_when():
    orders = []
    for seed in (0, 1):
        made, seen = batches(seed), []
        for _ in range(3 * BATCHES):  # 192 pairs, 32 epochs of 6
            batch = next(made)
            queries, answers = batch["tokens"][:, 0], batch["documents"][:4, 0].astype(int)
            seen += list(zip(queries.tolist(), answers.tolist(), strict=True))
        assert collections.Counter(seen) == {tuple(pair): 32 for pair in EXAMPLES.pairs.tolist()}
        orders.append(seen)
    assert orders[0] != orders[1]


def test_queries_of_like_length_are_together():
    lengths = np.random.default_rng(0).permutation(4 * BATCHES)
    examples = Examples(
        [f"{i:0{length + 2}}" for i, length in enumerate(lengths)],
        np.stack([np.arange(4 * BATCHES)] * 2, axis=1),
        [frozenset({i}) for i in range(4 * BATCHES)],
        np.zeros((4 * BATCHES, 0), int),
    )
    made = batches(hard=0, examples=examples)
    longest = [lengths[next(made)["tokens"][:, 0]] for _ in range(BATCHES)]
    assert all(each.max() - each.min() == 3 for each in longest)
    assert [max(each) for each in longest] != sorted(max(each) for each in longest)


def test_answers_count_neither_for_nor_against_others():
    made = batches()
    for _ in range(20):
        batch = next(made)
        queries, rows = batch["tokens"][:, 0], batch["documents"][:, 0].astype(int)
        drawn = rows[4:].reshape(4, 2)
        for i, query in enumerate(queries):
            mined = [row for row in EXAMPLES.negatives[query] if row >= 0]
            missing = max(0, 2 - len(mined))
            own = batch["allowed"][i, 4 + 2 * i : 6 + 2 * i]
            kept = drawn[i][: 2 - missing]
            assert len(set(kept)) == len(kept)
            assert set(kept) <= set(mined)
            assert own.tolist() == [True] * len(kept) + [False] * missing
            for column, row in enumerate(rows[:4]):
                answers = int(row) in EXAMPLES.answers[query]
                assert batch["allowed"][i, column] == (column == i or not answers)


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
        ({"prompt_length": 0}, "a prompt trains"),
        ({"method": "lora", "prompt_length": 0}, "a prompt trains"),
        ({"pack": True}, "pack is for"),
        ({"query_name": "question"}, "no text prompt 'question'"),
        ({"prompt_init": "nearest:runs"}, "name a prompt's own path"),
        ({"dropout_rate": 0.1}, "has no dropout"),
    ],
)
def test_what_cannot_be_trained_is_said(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        pt.train(**run(load("bert"), data, tmp_path / "run", **changes))


@pytest.mark.slow
def test_an_index_of_others_is_refused(trained, data, tmp_path):
    model, _, directory, _ = trained
    with pytest.raises(ValueError, match="vectors of another model"):
        pt.train(**run(load("sentence_t5"), data, tmp_path / "a", index=directory / "index"))
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
