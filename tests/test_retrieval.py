"""Documents by their vectors: reading collections, exact search, scores, what training draws on."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from common import GOLDENS
from embedding_models import load

from prompt_tuning_jax.data.collection import Collection, read_collection
from prompt_tuning_jax.evaluation.retrieval import exact_search
from prompt_tuning_jax.evaluation.retrieval.exact_search import nearest
from prompt_tuning_jax.evaluation.retrieval.metrics import depth_of, evaluate, parse_metric
from prompt_tuning_jax.evaluation.retrieval.store import (
    load_store,
    make_store,
    save_store,
    with_precision,
)
from prompt_tuning_jax.models.embedding import Step
from prompt_tuning_jax.models.embedding.stored import DTYPES
from prompt_tuning_jax.training.retrieval.contrastive import contrastive_losses
from prompt_tuning_jax.training.retrieval.hard_negatives import MISSING, mine

TREC = json.loads((GOLDENS / "retrieval" / "pytrec_eval.json").read_text())
MODEL = load("bert").replace(known_fingerprint="f")


def vectors(count, size=8, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_tsv", ".tsv").replace("_jsonl", ".jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def folder(tmp_path):
    write(
        tmp_path,
        corpus_jsonl='{"_id": "d1", "title": "Tea", "text": "A drink."}\n'
        '{"_id": "d2", "text": "A stone."}\n',
        queries_jsonl='{"_id": "q1", "text": "what to drink"}\n{"_id": "q2", "text": "hard"}\n',
        qrels__train_tsv="query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n",
        qrels__dev_tsv="query-id\tcorpus-id\tscore\nq2\td2\t1\nq1\td2\t0\n",
    )
    return tmp_path


# --- scores


@pytest.mark.parametrize("metric", TREC["scores"])
def test_scores_are_those_of_trec_eval(metric):
    """Query by query, equal scores among the documents, queries of which nothing was found."""
    for query, expected in zip(TREC["grades"], TREC["scores"][metric], strict=True):
        graded = {query: TREC["grades"][query]}
        assert evaluate(TREC["run"], graded, [metric])[metric] == pytest.approx(100 * expected)


def test_a_score_is_the_mean_over_queries():
    for metric, each in TREC["scores"].items():
        scores = evaluate(TREC["run"], TREC["grades"], [metric])
        assert scores[metric] == pytest.approx(100 * np.mean(each))


def test_names_of_metrics():
    assert parse_metric("ndcg@10")[1] == 10
    assert depth_of(["recall@3", "mrr@100"]) == 100
    for name in ("ndcg", "ndcg@0", "precision@5", "recall@"):
        with pytest.raises(ValueError, match="is no metric of retrieval"):
            parse_metric(name)


# --- collections


def test_a_collection_is_read(folder):
    found = read_collection(folder)
    assert found.documents == {"d1": "Tea A drink.", "d2": "A stone."}
    assert found.queries == {"q1": "what to drink", "q2": "hard"}
    assert found.grades["train"] == {"q1": {"d1": 2, "d2": 0}}
    assert found.split("validation") == {"q2": {"d2": 1}}  # nothing answers q1 there
    assert len(found.files) == 4


def test_other_formats_hold_the_same(folder):
    before = read_collection(folder)
    (folder / "corpus.jsonl").unlink()
    write(
        folder,
        corpus_tsv="_id\ttitle\ttext\nd1\tTea\tA drink.\nd2\t\tA stone.\n",
        qrels__train_tsv="query-id\tcorpus-id\nq1\td1\n",
    )
    found = read_collection(folder)
    assert found.documents == before.documents
    assert found.grades["train"] == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"qrels__train_tsv": "query-id\tcorpus-id\tscore\nq9\td1\t1\n"}, "no query 'q9'"),
        ({"qrels__train_tsv": "query-id\tcorpus-id\tscore\nq1\td9\t1\n"}, "document 'd9'"),
        ({"qrels__train_tsv": "query-id\tcorpus-id\tscore\nq1\td1\thigh\n"}, "no whole number"),
        ({"qrels__train_jsonl": '{"query-id": "q1", "corpus-id": "d1", "score": 0.9}'}, "whole"),
        ({"qrels__train_tsv": "query-id\tcorpus-id\nq1\td1\nq1\td1\n"}, "there twice"),
        ({"queries_jsonl": '{"_id": "q1", "text": ["a"]}\n'}, r"text must be text, not \['a'\]"),
        ({"queries_jsonl": '{"_id": "q1", "text": "\\ud800"}\n'}, "line 1: text"),
        ({"qrels__train_tsv": "q\td\nq1\td1\n"}, "no field 'query-id'"),
        ({"qrels__all_tsv": "query-id\tcorpus-id\nq1\td1\n"}, "name it for its split"),
        ({"qrels__training_jsonl": "{}"}, "several files|name it for its split"),
        ({"corpus_tsv": "_id\ttext\nd1\tx\n"}, "must hold one corpus.jsonl"),
        ({"corpus_jsonl": '{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}\n'}, "twice"),
        ({"queries_jsonl": '{"_id": "q1"}\n'}, "no field 'text'"),
    ],
)
def test_what_is_wrong_with_a_collection_is_said(folder, files, message):
    write(folder, **files)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_collection(folder)


def test_what_is_missing_is_said(folder):
    shutil.rmtree(folder / "qrels")
    with pytest.raises(FileNotFoundError, match="of which document answers which query"):
        read_collection(folder)
    with pytest.raises(ValueError, match="no qrels of the split 'test'"):
        Collection({"d": "x"}, {"q": "y"}, {"train": {"q": {"d": 1}}}).split("test")
    with pytest.raises(ValueError, match="no query has a document"):
        Collection({"d": "x"}, {"q": "y"}, {"train": {"q": {"d": 0}}}).split("train")


# --- search


def test_search_is_exact_whatever_the_blocks(monkeypatch):
    queries, stored = vectors(7, seed=1), vectors(50)
    scores = queries @ stored.T
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :9]
    for block, asked in ((50, 7), (16, 3), (4, 1)):
        monkeypatch.setattr(exact_search, "BLOCK", block)
        monkeypatch.setattr(exact_search, "QUERIES", asked)
        found = nearest(queries, stored, 9)
        np.testing.assert_array_equal(found.rows, expected)
        np.testing.assert_allclose(
            found.scores, np.take_along_axis(scores, expected, axis=1), atol=1e-6
        )


def test_of_equal_vectors_the_earlier_is_first(monkeypatch):
    monkeypatch.setattr(exact_search, "BLOCK", 4)
    stored = np.repeat(vectors(3), 5, axis=0)
    found = nearest(stored[:1], stored, 5)
    assert found.rows.tolist() == [[0, 1, 2, 3, 4]]


def test_search_at_the_edges():
    assert nearest(vectors(2), vectors(3), 10).rows.shape == (2, 3)
    assert nearest(np.zeros((0, 8), np.float32), vectors(3), 2).rows.shape == (0, 2)
    with pytest.raises(ValueError, match="of different models"):
        nearest(vectors(1, size=4), vectors(3), 2)


# --- stores


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_store_is_read_as_it_was_written(tmp_path, dtype):
    documents = {f"d{i}": f"text ä {i}" for i in range(20)}
    made = make_store(documents, vectors(20), MODEL, dtype, name="document")
    save_store(made, tmp_path / "index")
    save_store(made, tmp_path / "index")  # in place of the first
    found = load_store(tmp_path / "index")
    assert found.vectors.dtype == dtype
    assert isinstance(found.vectors, np.memmap)
    assert dict(zip(found.ids, found.texts, strict=True)) == documents
    assert found.facts == made.facts
    queries = vectors(4, seed=1)
    for one, other in zip(found.search(queries, 5), made.search(queries, 5), strict=True):
        np.testing.assert_array_equal(one, other)
    some = np.array([[3, 4], [0, 19]])
    worst = {"float32": 0, "float16": 1e-3, "int8": 1 / 254}[dtype]
    np.testing.assert_allclose(found.rows(some), vectors(20)[some], atol=worst)
    assert len(found) == 20


def test_int8_is_within_half_a_step_and_keeps_zeros():
    rows = np.concatenate([vectors(5) * 3, np.zeros((1, 8), np.float32)])
    kept, scales = with_precision(rows, "int8")
    assert np.abs(kept * scales[:, None] - rows).max() <= scales.max() / 2 + 1e-7
    assert not kept[-1].any()


def test_a_store_of_another_model_is_refused(tmp_path):
    made = make_store({"d": "x"}, vectors(1, MODEL.config.outputs), MODEL)
    made.check(MODEL)
    cut = dataclasses.replace(MODEL.config, steps=(Step("truncate", 5), Step("normalize")))
    with pytest.raises(ValueError, match="another length"):
        made.check(MODEL.replace(config=cut, known_fingerprint="f"))
    with pytest.raises(ValueError, match="another model"):
        made.check(MODEL.replace(known_fingerprint="g"))
    with pytest.raises(ValueError, match="another vocabulary"):
        made.check(MODEL.replace(vocabulary=load("sentence_t5").vocabulary))
    config = dataclasses.replace(MODEL.config, pooling=("cls",))
    with pytest.raises(ValueError, match="another pooling"):
        made.check(MODEL.replace(config=config, known_fingerprint="f"))


@pytest.mark.filterwarnings("error")
def test_where_inner_products_are_no_cosines_it_is_said():
    make_store({"d": "x"}, vectors(1), MODEL.replace(config=MODEL.config.changed(None, True, None)))
    bare = MODEL.replace(config=MODEL.config.changed(None, False, None))
    with pytest.raises(UserWarning, match=r"no length in common.*normalize=true"):
        make_store({"d": "x"}, vectors(1), bare)


def test_what_is_wrong_with_a_store_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="prompt-tuning index"):
        load_store(tmp_path)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="holds no index"):
        save_store(make_store({"d": "x"}, vectors(1), MODEL), tmp_path)
    save_store(make_store({"d": "x", "e": "y"}, vectors(2), MODEL), tmp_path / "index")
    (tmp_path / "index" / "documents.jsonl").write_text('{"_id": "d", "text": "x"}\n')
    with pytest.raises(ValueError, match=r"no whole index .*1 documents"):
        load_store(tmp_path / "index")
    for name, text in (("index.json", "{}"), ("documents.jsonl", "{"), ("vectors.npy", "")):
        save_store(make_store({"d": "x"}, vectors(1), MODEL, "int8"), tmp_path / "index")
        (tmp_path / "index" / name).write_text(text)
        with pytest.raises(ValueError, match="no whole index"):
            load_store(tmp_path / "index")
    save_store(make_store({"d": "x"}, vectors(1), MODEL, "int8"), tmp_path / "index")
    np.save(tmp_path / "index" / "scales.npy", np.ones(3, np.float32))
    with pytest.raises(ValueError, match="no whole index"):
        load_store(tmp_path / "index")
    with pytest.raises(ValueError, match="float16, int8"):
        make_store({"d": "x"}, vectors(1), MODEL, "int4")


# --- what training draws on


def test_hard_negatives_are_near_and_no_answers():
    stored, queries = vectors(40), vectors(5, seed=2)
    store = make_store({f"d{i}": "" for i in range(40)}, stored, MODEL)
    scores = queries @ stored.T
    answers = [frozenset(np.argsort(-scores[i])[i : i + 2].tolist()) for i in range(5)]
    refused = [[39], [], [], [], []]
    mined = mine(store, queries, answers, refused, depth=6, ceiling=1.0)
    assert mined.shape == (5, 6)
    for i in range(5):
        best = max(scores[i, row] for row in answers[i])
        looked_at = np.argsort(-scores[i])[: 6 + 2]
        order = [r for r in looked_at if r not in answers[i] and scores[i, r] <= best]
        expected = [*refused[i], *(r for r in order if r not in refused[i])]
        assert mined[i].tolist() == expected[:6] + [MISSING] * (6 - len(expected))
        assert len(expected) > 1
    lower = mine(store, queries, answers, refused, depth=6, ceiling=0.5)
    for i in range(1, 5):
        best = max(scores[i, row] for row in answers[i])
        limit = best - 0.5 * abs(best) + 1e-6
        assert all(scores[i, row] <= limit for row in lower[i] if row != MISSING)
    few = make_store({f"d{i}": "" for i in range(3)}, stored[:3], MODEL)
    alone = mine(few, queries[:1], [frozenset({0, 1})], [[]], depth=4, ceiling=10.0)
    assert alone.tolist() == [[2, MISSING, MISSING, MISSING]]


def test_the_contrastive_loss_is_a_cross_entropy():
    queries, documents = vectors(4, seed=3), vectors(10, seed=4)
    allowed = np.ones((4, 10), bool)
    allowed[0, 2] = allowed[3, 9] = False
    losses = contrastive_losses(queries, documents, allowed, 0.05)
    for i in range(4):
        scores = (queries[i] @ documents.T / 0.05)[allowed[i]]
        own = queries[i] @ documents[i] / 0.05
        assert losses[i] == pytest.approx(np.log(np.exp(scores - own).sum()), rel=1e-4)


def test_a_candidate_that_is_not_allowed_has_no_gradient():
    queries, documents = vectors(3, seed=5), vectors(6, seed=6)
    allowed = np.ones((3, 6), bool)
    allowed[:, 5] = False

    def total(documents):
        return contrastive_losses(queries, documents, allowed, 0.1).sum()

    gradient = jax.grad(total)(documents)
    assert np.isfinite(gradient).all()
    assert not gradient[5].any()
    assert np.abs(gradient[:5]).max(axis=1).all()
