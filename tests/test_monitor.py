"""Early signs, the collapse warning, and metrics that are read one step late."""

import math
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from prompt_tuning_jax.commands.evaluate import Evaluation
from prompt_tuning_jax.training.monitor import (
    Monitor,
    NotFiniteError,
    collapse_warning,
    prompt_signs,
)


def scalars(directory) -> dict[str, dict[int, float]]:
    """What TensorBoard would show: name -> step -> value."""
    found: dict[str, dict[int, float]] = {}
    for file in sorted(directory.rglob("events.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
            data = data[12 + length + 4 :]
    return found


def metrics(loss: float, finite: bool = True):
    return {"loss": jnp.float32(loss), "gradient_norm": jnp.float32(2), "finite": jnp.bool_(finite)}


@pytest.fixture
def monitor(tmp_path):
    with_bar = Monitor(tmp_path, start=0, steps=10, log_period=2, quiet=True)
    yield with_bar
    with_bar.close()


def test_signs_of_a_prompt(key):
    prompt = np.asarray(jax.random.normal(key, (4, 8)))
    table = np.asarray(jax.random.normal(jax.random.key(1), (30, 8)))
    signs = prompt_signs(prompt, table)
    distances = np.linalg.norm(prompt[:, None] - table[None], axis=-1)
    nearest = distances.min(axis=1).mean()
    np.testing.assert_allclose(signs["prompt_to_nearest_embedding"], nearest, rtol=1e-4)
    norms = np.linalg.norm(prompt, axis=-1)
    np.testing.assert_allclose(signs["prompt_norm"], norms.mean(), rtol=1e-5)


def test_a_prompt_made_of_embeddings_is_at_no_distance(key):
    table = jax.random.normal(key, (30, 8))
    assert prompt_signs(table[3:7], table)["prompt_to_nearest_embedding"] < 1e-2
    # Which on a TPU would be the rounding of bfloat16 products.
    assert "HIGHEST" in str(jax.make_jaxpr(prompt_signs)(table[3:7], table))
    bfloat16 = prompt_signs(table[3:7], table.astype(jnp.bfloat16))
    assert bfloat16["prompt_to_nearest_embedding"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("predictions", "targets", "warns"),
    [
        (["no"] * 20, ["yes", "no"] * 10, True),
        (["no"] * 19 + ["yes"], ["yes", "no"] * 10, True),
        (["no"] * 18 + ["yes"] * 2, ["yes", "no"] * 10, False),
        (["no"] * 20, ["no"] * 20, False),
        ([], [], False),
    ],
    ids=["one answer", "nearly one", "some others", "one right answer", "nothing"],
)
def test_collapse_to_one_answer(predictions, targets, warns):
    warning = collapse_warning(Evaluation({}, targets, predictions))
    assert (warning is not None) == warns
    assert not warns or ("'no'" in warning and "learning_rate" in warning)


def test_metrics_are_read_one_step_late(monitor):
    monitor.dispatched(1, metrics(5.0), rows=4)
    assert math.isnan(monitor.loss)
    monitor.dispatched(2, metrics(3.0), rows=4)
    assert monitor.loss == 5.0
    monitor.finish_step()
    assert monitor.loss == 3.0
    monitor.finish_step()
    assert monitor.loss == 3.0


def test_a_step_that_is_not_finite_is_named(monitor):
    monitor.dispatched(1, metrics(5.0), rows=4)
    monitor.dispatched(2, metrics(math.nan, finite=False), rows=4)
    with pytest.raises(NotFiniteError, match=r"step 2.*learning_rate"):
        monitor.dispatched(3, metrics(1.0), rows=4)


def test_scalars_are_for_tensorboard(monitor, tmp_path):
    for step in range(1, 5):
        monitor.dispatched(step, metrics(float(step)), rows=4)
    monitor.finish_step()
    monitor.scalars(4, "validation", {"accuracy": 75.0})
    monitor.close()
    shown = scalars(tmp_path / "tensorboard")
    assert shown["train/loss"] == {2: 2.0, 4: 4.0}
    assert shown["train/gradient_norm"] == {2: 2.0, 4: 2.0}
    assert shown["validation/accuracy"] == {4: 75.0}
    assert all(rate > 0 for rate in shown["train/examples_per_second"].values())
