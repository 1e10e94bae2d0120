"""A query side tuned here, loaded by PEFT and sentence-transformers; and PEFT's own, read here."""

import itertools
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from embedding_models import HERE, TEXTS, load
from test_adapters import OPTIONS, drawn
from test_retrieval_adapters import settings
from test_retrieval_export import python_of_theirs
from test_retrieval_train import write_collection

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.adapters.adapter_file import save_adapter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        python_of_theirs("peft") is None,
        reason="need PEFT and sentence-transformers: pip install torch peft sentence-transformers, "
        "or PROMPT_TUNING_TORCH_PYTHON=PYTHON",
    ),
]
NAMES = ("bert", "sentence_t5", "qwen3", "embedding_gemma")
PAGE = Path(pt.__file__).parent / "evaluation" / "retrieval" / "README.md"
WORKER = str(Path(__file__).with_name("embedding_peft_worker.py"))


def theirs(*words, told=""):
    """Runs their Python."""
    done = subprocess.run(
        [python_of_theirs("peft"), *words],
        input=told,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def vectors(*jobs):
    """What they make of the texts, job by job, beside what is in the adapter's directory."""
    for job in jobs:
        job["texts"] = TEXTS
    theirs(WORKER, told=json.dumps(jobs))
    return [np.load(job["vectors"]) for job in jobs]


def base(name):
    return str(HERE / name / "model")


def assert_equal(actual, expected, untuned):
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)
    assert np.abs(untuned - expected).max() > 0.1  # so that an adapter left out shows


def test_ours_are_theirs(tmp_path):
    """By `PeftModel.from_pretrained`, and by sentence-transformers' own `load_adapter`."""
    jobs, expected = [], []
    for name, method in itertools.product(NAMES, ("lora", "ia3")):
        model, place = load(name), tmp_path / f"{name}-{method}"
        save_adapter(place, drawn(method, model, OPTIONS), model.config, model.name)
        own = model.adapted(place).embed(TEXTS), model.embed(TEXTS)
        for way in ("peft", "library"):
            told = {"base": base(name), "adapter": str(place), "way": way}
            jobs.append(told | {"vectors": str(place / f"{way}.npy")})
            expected.append(own)
    for found, (own, untuned) in zip(vectors(*jobs), expected, strict=True):
        assert_equal(found, own, untuned)


def settings_of_theirs(name):
    """PEFT's settings of adapters, and of what it does not know of some models by itself."""
    is_known = name in ("bert", "sentence_t5")
    lora = {} if is_known else {"target_modules": ["q_proj", "v_proj"]}
    ia3 = {"target_modules": ["k_proj", "v_proj", "down_proj"]}
    ia3 = {} if is_known else ia3 | {"feedforward_modules": ["down_proj"]}
    return (
        {"kind": "lora", "r": 3, "lora_alpha": 6} | lora,
        {"kind": "ia3"} | ia3,
        {"kind": "lora", "r": 2, "lora_alpha": 2, "target_modules": "all-linear"},
    )


def test_theirs_are_ours(tmp_path):
    """Of all linear layers too: a BERT's pooler, which is among them, is no part of a vector."""
    jobs = []
    for name in NAMES:
        for number, make in enumerate(settings_of_theirs(name)):
            place = tmp_path / f"{name}-{number}"
            told = {"base": base(name), "adapter": str(place), "make": make}
            jobs.append(told | {"name": name, "vectors": str(place / "vectors.npy")})
    for job, expected in zip(jobs, vectors(*jobs), strict=True):
        model = load(job["name"])
        assert_equal(model.adapted(job["adapter"]).embed(TEXTS), expected, model.embed(TEXTS))


@pytest.mark.usefixtures("one_device")
def test_the_pages_lines_load_what_a_run_wrote(tmp_path):
    data, model = write_collection(tmp_path / "data"), load("bert")
    pt.train(**settings(model, data, tmp_path / "run", "lora", learning_rate=0.05))
    best = tmp_path / "run" / "last"
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (lines,) = [block for block in blocks if "load_adapter" in block]
    for shown, there in (("all-MiniLM-L6-v2", base("bert")), ("runs/lora/best", str(best))):
        assert shown in lines
        lines = lines.replace(shown, there)
    where = str(tmp_path / "vectors.npy")
    theirs("-c", f"{lines}\nimport numpy\nnumpy.save({where!r}, queries.encode({TEXTS!r}))")
    assert_equal(model.adapted(best).embed(TEXTS), np.load(where), model.embed(TEXTS))
