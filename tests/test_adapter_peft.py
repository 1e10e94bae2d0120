"""PEFT itself, in its own process: its adapters come in, and ours go out, with equal logits."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from causal_models import MODELS, next_logits
from common import GOLDENS
from test_adapters import HERE, OPTIONS, drawn
from test_peft import torch_python

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.adapters.adapter_file import save_adapter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        torch_python() is None,
        reason="need PEFT: pip install torch transformers peft, or "
        "PROMPT_TUNING_TORCH_PYTHON=PYTHON",
    ),
]
CAUSAL = [name for name in ("qwen3", "llama", "gemma2", "gpt2") if name in MODELS]
PLACES = {name: MODELS[name] for name in CAUSAL} | {"t5": HERE, "t5gemma": GOLDENS / "t5gemma"}
SETTINGS = {"lora": {"r": 3, "lora_alpha": 6}, "ia3": {}, "prefix": {"num_virtual_tokens": 5}}
# What PEFT does not know of these models by itself.
TARGETS = {
    "lora": {"target_modules": ["q_proj", "v_proj"]},
    "ia3": {
        "target_modules": ["k_proj", "v_proj", "down_proj"],
        "feedforward_modules": ["down_proj"],
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Has PEFT do jobs; each one's logits."""
    rng, directory = np.random.default_rng(0), tmp_path_factory.mktemp("peft")
    ids = rng.integers(5, 60, (2, 9))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": ids}
    np.savez(directory / "batch.npz", **batch)

    def run(*jobs):
        common = {"batch": str(directory / "batch.npz")}
        done = subprocess.run(
            [torch_python(), str(Path(__file__).with_name("adapter_worker.py"))],
            input=json.dumps([job | common for job in jobs]),
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return [np.load(Path(job["adapter"]) / "numbers.npz")["logits"] for job in jobs]

    run.ids = ids.astype(np.int32)
    return run


def ours(model, ids):
    """The logits that transformers gives, of the ids as text and as labels."""
    if model.config.continues_inputs:
        return next_logits(model, ids)
    decoded = np.pad(ids, ((0, 0), (1, 0)), constant_values=model.config.start_id)[:, :-1]
    return np.asarray(model.logits(ids, decoded))


@pytest.mark.parametrize("name", PLACES)
def test_theirs_are_ours(run, name, tmp_path):
    kinds = ["lora", "ia3"] if name == "t5gemma" else list(SETTINGS)
    jobs = []
    for kind in kinds:
        more = TARGETS.get(kind, {}) if name in ("qwen3", "t5gemma") else {}
        made = {"kind": kind, **SETTINGS[kind], **more}
        if name == "gpt2" and kind != "prefix":
            made["fan_in_fan_out"] = True
        jobs.append({"base": str(PLACES[name]), "adapter": str(tmp_path / kind), "make": made})
    base = pt.load_model(PLACES[name])
    for kind, expected in zip(kinds, run(*jobs), strict=True):
        found = ours(base.adapted(tmp_path / kind), run.ids)
        np.testing.assert_allclose(found, expected, atol=2e-4, err_msg=kind)


@pytest.mark.parametrize("name", PLACES)
def test_ours_are_theirs(run, name, tmp_path):
    base = pt.load_model(PLACES[name])
    kinds = list(SETTINGS) if name in CAUSAL else ["lora", "ia3"]
    for kind in kinds:
        adapter = drawn(kind, base, OPTIONS._replace(rslora=True))
        save_adapter(tmp_path / kind, adapter, base.config, str(PLACES[name]))
    jobs = [{"base": str(PLACES[name]), "adapter": str(tmp_path / kind)} for kind in kinds]
    for kind, expected in zip(kinds, run(*jobs), strict=True):
        found = ours(base.adapted(tmp_path / kind), run.ids)
        np.testing.assert_allclose(found, expected, atol=2e-4, err_msg=kind)
