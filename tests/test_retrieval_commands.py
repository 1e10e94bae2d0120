"""`index` and `search`, and other libraries' stores on the files that they leave."""

import io
import json
import sys

import numpy as np
import pytest
from embedding_models import HERE, load, numbers

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.prompt_file import save_prompt
from prompt_tuning_jax.commands.cli import main
from prompt_tuning_jax.commands.retrieval import index as make_index
from prompt_tuning_jax.commands.retrieval import search
from prompt_tuning_jax.evaluation.retrieval.store import load_store

MODEL = str(HERE / "bert" / "model")
DOCUMENTS = {f"d{i}": f"number {i} of {word}" for i, word in enumerate(("tea", "stone", "rain"))}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    lines = [json.dumps({"_id": key, "text": text}) for key, text in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    words = ["--documents", str(folder / "corpus.jsonl"), "--output", str(folder / "index")]
    main(["index", "--model", MODEL, *words])
    prompt = pt.TunedPrompt(numbers("bert")["prefix"], "prefix")
    save_prompt(folder / "prompt", prompt, base_model=MODEL, **load("bert").identity)
    return folder / "index"


def test_an_index_is_the_models_vectors(index):
    store = load_store(index)
    vectors = load("bert").embed(list(DOCUMENTS.values()))
    np.testing.assert_allclose(store.vectors, vectors, atol=1e-6)
    assert store.ids == list(DOCUMENTS)
    assert store.facts["model"] == MODEL


def expected(question, prompt=None):
    model = load("bert")
    scores = model.embed(list(DOCUMENTS.values())) @ model.embed([question], prompt)[0]
    return [(list(DOCUMENTS)[i], scores[i]) for i in np.argsort(-scores)]


@pytest.mark.parametrize("tuned", [False, True])
def test_search_finds_the_nearest(index, capsys, tuned):
    words = ["--prompt", str(index.parent / "prompt")] if tuned else []
    search.main(["number of rain", "--index", str(index), "--json", *words])
    told = json.loads(capsys.readouterr().out)
    prompt = numbers("bert")["prefix"] if tuned else None
    found = [(one["_id"], one["score"]) for one in told["documents"]]
    for (name, score), (other, theirs) in zip(
        found, expected("number of rain", prompt), strict=True
    ):
        assert name == other
        assert score == pytest.approx(theirs, abs=1e-5)


def test_questions_of_standard_input(index, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("tea\n\nrain\n"))
    search.main(["--index", str(index), "--top", "1"])
    printed = capsys.readouterr().out.splitlines()
    assert [printed[0], printed[2]] == ["tea", "rain"]
    assert [line.split()[2] for line in printed[1::2]] == [
        expected(question)[0][0] for question in ("tea", "rain")
    ]


def test_what_is_wrong_is_said(index, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="vectors of another model"):
        search.main(["x", "--index", str(index), "--model", str(HERE / "sentence_t5" / "model")])
    with pytest.raises(FileNotFoundError, match="prompt-tuning index"):
        search.main(["x", "--index", str(tmp_path)])
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(ValueError, match="no question"):
        search.main(["--index", str(index)])


def test_documents_of_standard_input(index, tmp_path, monkeypatch):
    lines = [json.dumps({"_id": key, "text": text}) for key, text in DOCUMENTS.items()]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    make_index.main(["--model", MODEL, "--output", str(tmp_path / "index")])
    found, expected = load_store(tmp_path / "index"), load_store(index)
    assert (found.ids, found.texts) == (expected.ids, expected.texts)
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"text": "x"}\n'))
    with pytest.raises(ValueError, match="Line 1 of the input: there is no field '_id'"):
        make_index.main(["--model", MODEL, "--output", str(tmp_path / "other")])
