"""`prompt-tuning embed`: a vector for each line, in a file or on standard output."""

import io
import sys
import types

import numpy as np
import pytest
from embedding_models import HERE, TEXTS, load, numbers

import prompt_tuning_jax as pt
from prompt_tuning_jax.commands import cli
from prompt_tuning_jax.commands.retrieval.embed import embed
from prompt_tuning_jax.errors import UsageError

MODEL = HERE / "bert" / "model"


def test_lines_of_a_file(tmp_path, capsys):
    texts, output = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    texts.write_text("".join(f"{text}\n" for text in TEXTS))
    cli.main(["embed", "--model", str(MODEL), "--input_file", str(texts), "--output", str(output)])
    assert capsys.readouterr().out == f"{output}: [12, 32], float32\n"
    np.testing.assert_allclose(np.load(output), numbers("bert")["embeddings"], atol=1e-6, rtol=0)


def test_standard_output_is_the_array_alone(monkeypatch, tmp_path):
    class Pipe(io.BytesIO):
        def tell(self):
            raise OSError("a pipe knows no place")

    written = Pipe()
    stdout = types.SimpleNamespace(buffer=written, isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The ferry leaves.\n\n")))
    monkeypatch.setattr(sys, "stdout", stdout)
    embed(model=MODEL, dtype="float16")
    stdout.isatty = lambda: True
    with pytest.raises(ValueError, match=r"no text for a terminal: give output"):
        embed(model=MODEL)
    monkeypatch.undo()
    found = np.load(io.BytesIO(written.getvalue()))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(
        found, load("bert").embed(["The ferry leaves.", ""], dtype="float16")
    )


def test_a_prompt_and_whether_it_counts(tmp_path):
    model, io_ = load("bert"), numbers("bert")
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{text}\n" for text in TEXTS))
    given = {"model": MODEL, "input_file": texts, "output": tmp_path / "vectors.npy"}
    path = pt.save_prompt(tmp_path / "prompt", io_["prefix"], **model.identity, pool_prompt=True)
    found = embed(**given, prompt=path)
    np.testing.assert_allclose(found, io_["embeddings_prefix_included"], atol=1e-6, rtol=0)
    np.testing.assert_array_equal(np.load(given["output"]), found)
    found = embed(**given, prompt=path, pool_prompt=False)
    np.testing.assert_allclose(found, io_["embeddings_prefix_excluded"], atol=1e-6, rtol=0)


def test_a_text_before_all_texts(tmp_path):
    (tmp_path / "texts.txt").write_text("tea\n")
    given = {"input_file": tmp_path / "texts.txt", "output": tmp_path / "vectors.npy"}
    found = embed(model=MODEL, **given, text_prompt="query: ")
    np.testing.assert_array_equal(found, load("bert").embed(["query: tea"]))
    with pytest.raises(UsageError, match="either name or text_prompt"):
        embed(model=MODEL, **given, text_prompt="query: ", name="query")


def test_refusals(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("a\n")
    given = {"model": MODEL, "input_file": texts, "output": tmp_path / "vectors.npy"}
    other = pt.save_prompt(tmp_path / "prompt", np.ones((2, 32)), fingerprint="0" * 64)
    with pytest.raises(ValueError, match="which is not the model given"):
        embed(**given, prompt=other)
    assert embed(**given, prompt=other, allow_prompt_mismatch=True).shape == (1, 32)
    with pytest.raises(UsageError, match=r"no text prompt 'doc'; there are: document, query"):
        embed(**given, name="doc")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        embed(**given | {"input_file": "nowhere.txt"})
