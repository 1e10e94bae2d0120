"""Parts of a batch in turn: the step of the whole batch."""

import dataclasses

import jax
import numpy as np
import pytest
from common import slow

from prompt_tuning_jax import optim
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.params import PROMPT_NAME, split_params
from prompt_tuning_jax.settings.train_config import TrainConfig, check_settings
from prompt_tuning_jax.training.set_up import place
from prompt_tuning_jax.training.train_step import make_train_step

RULES = optim.prompt_rules()
PROMPT = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
ROWS = np.random.default_rng(1)
BATCH = {
    "encoder_input_tokens": ROWS.integers(2, 30, (8, 6)).astype(np.int32),
    "decoder_input_tokens": ROWS.integers(2, 30, (8, 3)).astype(np.int32),
    "decoder_target_tokens": ROWS.integers(2, 30, (8, 3)).astype(np.int32),
    # Parts of the batch differ in how many tokens count.
    "decoder_loss_weights": (np.arange(24).reshape(8, 3) % 5 < 3).astype(np.float32),
}


def step(model, mesh="data:1", **settings):
    """The prompt and the metrics after one step."""
    config = TrainConfig(**({"dropout_rate": 0.0} | settings))
    mesh = sharding.make_mesh(mesh, jax.devices()[: 2 if ":2" in mesh else 1])
    model = model.replace(mesh=mesh if mesh.size > 1 else None)
    parts = split_params(model.prompted(PROMPT).params, RULES)
    trainable, frozen = place(mesh, model, *parts)
    optimizer = optim.make_optimizer(trainable, RULES)
    batch = sharding.put(BATCH, sharding.batch_sharding(mesh))
    compiled = make_train_step(config, model, optimizer)
    trainable, _, metrics = compiled(
        trainable, optimizer.init(trainable), frozen, batch, jax.random.key(0)
    )
    return np.asarray(trainable[PROMPT_NAME]), jax.device_get(metrics)


def assert_same_step(ours, theirs):
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(ours[1][name], theirs[1][name], rtol=1e-5)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "normalization"),
    [slow(2, "sum"), (8, "mean"), slow(2, "mean"), slow(8, "sum")],
)
def test_parts_sum_to_the_whole(model, normalization, count):
    whole = step(model, loss_normalization=normalization)
    parts = step(model, loss_normalization=normalization, microbatches=count)
    assert_same_step(parts, whole)


@pytest.mark.slow
def test_parts_are_spread_over_devices(model):
    assert_same_step(step(model, "data:2", microbatches=2), step(model))


@pytest.mark.slow
def test_each_part_has_its_own_dropout(model):
    config = dataclasses.replace(model.config, dropout_rate=0.5)
    dropped = model.replace(config=config)
    losses = [step(dropped, dropout_rate=0.5, microbatches=n)[1]["loss"] for n in (1, 2, 2)]
    assert losses[1] == losses[2] != losses[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"microbatches": 0}, "microbatches must be at least 1"),
        ({"microbatches": 3}, "batch_size 8 does not divide into microbatches 3"),
    ],
)
def test_a_wrong_number_is_named(tmp_path, one_device, changes, words):
    with pytest.raises(ValueError, match=words):
        check_settings(TrainConfig(model_dir=str(tmp_path), batch_size=8, **changes))
