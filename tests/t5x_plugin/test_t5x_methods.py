"""Other methods than a prompt, each started with `t5x.train`: what moves, what is written and used."""

import numpy as np
import pytest
import t5x_runs
from common import slow

from prompt_tuning_jax import FrozenModel
from prompt_tuning_jax.checkpoints.adapters.adapter_file import load_adapter
from prompt_tuning_jax.checkpoints.t5x.checkpoint import open_checkpoint
from prompt_tuning_jax.methods.adapters import choice
from prompt_tuning_jax.params import unflatten

pytestmark = pytest.mark.t5x
METHODS = f"{t5x_runs.GIN}/methods"
LENGTHS = {"inputs": 24, "targets": 4}


def train(model_dir, base, method, **bindings):
    files = (f"{METHODS}/{method}.gin", *t5x_runs.TRAIN)  # in any order
    t5x_runs.train(model_dir, base, files, **bindings)
    return model_dir


def moved(base, model_dir):
    """The leaves that the base checkpoint has not, at the first and the last step."""
    before = t5x_runs.weights(base)
    first, last = (t5x_runs.weights(model_dir / f"checkpoint_{step}") for step in (3, 15))
    assert first.keys() == last.keys()
    assert before.keys() < last.keys()
    for name, values in before.items():
        assert last[name].dtype == values.dtype
        assert last[name].tobytes() == values.tobytes(), name
    new = last.keys() - before.keys()
    return {name: first[name] for name in new}, {name: last[name] for name in new}


ADAPTERS = [pytest.param("ia3", "ia3", id="ia3"), slow("per_layer_prompts", "prefix", id="prefix")]


@pytest.mark.parametrize(("file", "name"), ADAPTERS)
def test_an_adapter_trains_within_frozen_weights(base, tmp_path, file, name):
    run = train(tmp_path / "run", base, file)
    first, last = moved(base, run)
    assert {leaf.rpartition("/")[2] for leaf in last} == set(choice.METHODS[name].TRAINABLE)
    assert all(np.abs(last[leaf] - first[leaf]).max() > 1e-3 for leaf in last)

    adapter = load_adapter(run / "adapters" / "15", t5x_runs.CONFIG)
    assert adapter.method == name
    assert adapter.metadata["task"] == "bundled_sentiment"
    for leaf, values in last.items():
        np.testing.assert_array_equal(adapter.leaves[leaf], values)
    model = FrozenModel(t5x_runs.CONFIG, unflatten(t5x_runs.weights(base)))
    assert adapter.metadata["base_model_fingerprint"] == model.fingerprint

    told = {"MODE": "score", "TASK_FEATURE_LENGTHS": LENGTHS}
    method = f"{METHODS}/{file}.gin"
    whole = str(run / "checkpoint_15")
    scores = t5x_runs.infer(tmp_path / "whole", base, method, CHECKPOINT_PATH=whole, **told)
    small = str(run / "adapters" / "15")
    np.testing.assert_array_equal(
        scores, t5x_runs.infer(tmp_path / "small", base, method, ADAPTER_FILE=small, **told)
    )
    start = str(run / "checkpoint_3")
    other = t5x_runs.infer(tmp_path / "start", base, method, CHECKPOINT_PATH=start, **told)
    assert np.abs(np.subtract(scores, other)).max() > 1e-4
