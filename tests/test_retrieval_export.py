"""A tuned query side as a sentence-transformers model; that library itself loads it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from embedding_models import HERE, NAMES, TEXTS, load, numbers

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.prompt_file import save_prompt
from prompt_tuning_jax.checkpoints.query_side.export import MODULE
from prompt_tuning_jax.checkpoints.query_side.export import NAMES as NAMES_FILE
from prompt_tuning_jax.commands.export_prompt import main

FIND = (
    "import sys; from importlib.util import find_spec as f; sys.exit(not all(map(f, sys.argv[1:])))"
)
LIVE = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
places, texts = json.load(sys.stdin)
for place in places:
    model = SentenceTransformer(place, trust_remote_code=True, device="cpu")
    np.save(place + ".npy", model.encode(texts))
"""


def python_of_theirs(*also: str) -> str | None:
    """An interpreter with sentence-transformers: PROMPT_TUNING_TORCH_PYTHON, or this one."""
    needed = "sentence_transformers", *also
    for python in (os.environ.get("PROMPT_TUNING_TORCH_PYTHON"), sys.executable):
        if python and not subprocess.run([python, "-c", FIND, *needed]).returncode:
            return python
    return None


def export(tmp_path, name, pool_prompt=False, **changes):
    """The directory of a model with the goldens' prompt, by the command."""
    model, prompt = load(name), tmp_path / f"prompt-{name}-{pool_prompt}"
    facts = {**model.identity, "base_model": model.name, "pool_prompt": pool_prompt} | changes
    save_prompt(prompt, pt.TunedPrompt(numbers(name)["prefix"], "prefix"), **facts)
    place = tmp_path / f"{name}-{pool_prompt}"
    words = ["--to", "sentence_transformers", "--model", str(HERE / name / "model")]
    main([str(prompt), str(place), *words])
    return place


def test_what_is_written(tmp_path):
    place, base = export(tmp_path, "bert"), HERE / "bert" / "model"
    modules = json.loads((place / "modules.json").read_text())
    assert modules[0]["type"] == MODULE
    assert modules[1:] == json.loads((base / "modules.json").read_text())[1:]
    assert (place / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    settings = json.loads((place / "sentence_bert_config.json").read_text())
    assert settings["max_seq_length"] == load("bert").room(prompt_length=5)
    export(tmp_path, "bert")  # in place of the first


@pytest.mark.parametrize(
    ("sides", "of_documents", "expected"),
    [("query", "document", "query"), ("both", "query", "query"), ("both", "document", None)],
)
def test_the_text_prompt_that_stands_unasked(tmp_path, sides, of_documents, expected):
    """That of queries, unless documents pass the same model behind another."""
    facts = {"query_name": "query", "document_name": of_documents, "sides": sides}
    names = json.loads((export(tmp_path, "bert", **facts) / NAMES_FILE).read_text())
    assert names["default_prompt_name"] == expected


def test_what_cannot_be_exported_is_said(tmp_path, capsys):
    (tmp_path / "bert-False").mkdir()
    (tmp_path / "bert-False" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="is there already"):
        export(tmp_path, "bert")
    with pytest.raises(ValueError, match="is not the model given"):
        export(tmp_path, "sentence_t5", fingerprint="other")
    with pytest.raises(ValueError, match="copies"):
        main([str(tmp_path / "prompt-bert-False"), "x", "--to", "sentence_transformers"])


@pytest.mark.skipif(
    python_of_theirs() is None,
    reason="need sentence-transformers, or PROMPT_TUNING_TORCH_PYTHON=PYTHON that has it",
)
def test_theirs_makes_the_same_vectors(tmp_path):
    names = *NAMES, "embedding_gemma"
    made = {(name, pool): export(tmp_path, name, pool) for name in names for pool in (False, True)}
    told = json.dumps([list(map(str, made.values())), TEXTS])
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python_of_theirs(), "-c", LIVE],
        input=told,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for (name, pool), place in made.items():
        expected = numbers(name)[f"embeddings_prefix_{'included' if pool else 'excluded'}"]
        np.testing.assert_allclose(np.load(f"{place}.npy"), expected, atol=1e-5)
