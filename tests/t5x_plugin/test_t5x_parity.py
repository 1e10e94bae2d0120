"""T5X takes the steps of this library's own trainer, on one device and on eight."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import own_trainer
import pytest
import t5x_runs

from prompt_tuning_jax import FrozenModel, optim
from prompt_tuning_jax.train_config import TrainConfig
from prompt_tuning_jax.train_step import make_train_step

pytestmark = pytest.mark.t5x
TWO_DEVICES = "--xla_force_host_platform_device_count=2"
TESTS = Path(__file__).parents[1]
# Adafactor divides by the gradients' own size, so rounding grows with every step.
TOLERANCE = {7: 5e-5, 11: 3e-4, 15: 1e-3, 23: 2e-3}


@pytest.fixture(scope="module")
def ours(base, run):
    """(batch size) -> step -> the prompt that our own trainer has then, on one device."""
    first = t5x_runs.prompt(run / "checkpoint_3")
    return functools.partial(own_trainer.train, base, first)


def run_program(name, base, output, **environment):
    """Another process, whose code is compiled with optimisation."""
    environment = os.environ | {
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS / "t5x_plugin"))),
        **environment,
    }
    done = subprocess.run(
        [sys.executable, TESTS / "t5x_plugin" / name, base, output],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def own_flops(base, rules):
    """What XLA counts in our own step, on the batches of these runs."""
    model = FrozenModel(t5x_runs.CONFIG, optim.unflatten(t5x_runs.weights(base)))
    params = model.prompted(np.zeros((5, t5x_runs.CONFIG.emb_dim), np.float32)).params
    trainable, frozen = optim.split_params(params, rules)
    optimizer = optim.make_optimizer(trainable, rules)
    step = make_train_step(TrainConfig(dropout_rate=0.0), model, optimizer)
    batch = next(own_trainer.batches(t5x_runs.TASK["BATCH_SIZE"]))
    state = optimizer.init(trainable)
    lowered = step.lower(trainable, state, frozen, batch, jax.random.key(0))
    return lowered.compile().cost_analysis()["flops"]


def assert_same_steps(model_dir, expected, steps):
    for step in steps:
        found = t5x_runs.prompt(model_dir / f"checkpoint_{step}")
        np.testing.assert_allclose(found, expected[step], atol=TOLERANCE[step], err_msg=str(step))


def test_twenty_steps_are_those_of_our_own_trainer(base, tmp_path):
    """Both compiled with optimisation: without it, rounding reaches 9e-3 in the last steps."""
    run_program("train_twenty_steps.py", base, tmp_path, XLA_FLAGS=TWO_DEVICES)
    with np.load(tmp_path / "ours.npz") as file:
        expected = {int(step): prompt for step, prompt in file.items()}
    assert_same_steps(tmp_path, expected, TOLERANCE)
    assert np.abs(expected[23] - expected[4]).mean() > 0.3


def test_the_step_counts_from_the_base_checkpoint(ours):
    """Counted from 0, the first steps would forget the second moment faster."""
    assert np.abs(ours(8)[7] - ours(8, start_step=0)[7]).max() > 0.01


def test_eight_devices_take_the_same_steps(base, ours, tmp_path):
    """Data parallel, and data x model; with one and two microbatches."""
    flags = "--xla_force_host_platform_device_count=8"
    run_program("train_on_devices.py", base, tmp_path, XLA_FLAGS=flags)
    expected = ours(16)
    runs = sorted(path.name for path in tmp_path.iterdir())
    assert runs == ["data4_model2_1", "data4_model2_2", "data8_1", "data8_2"]
    for name in runs:
        assert_same_steps(tmp_path / name, expected, (7, 11, 15))
    split = (tmp_path / "data4_model2_1" / "model-info.txt").read_text()
    kernel = next(line for line in split.splitlines() if "attention/key/kernel" in line)
    assert "(None, 'model')" in kernel


def test_frozen_weights_get_no_gradient(base, tmp_path, monkeypatch):
    """The program that T5X compiles has our own step's products, and not those of model tuning."""
    from t5x import trainer

    compiled = []
    compile_train = trainer.BaseTrainer.compile_train

    def remember(self, batch):
        compile_train(self, batch)
        compiled.append(self._compiled_train_step)

    monkeypatch.setattr(trainer.BaseTrainer, "compile_train", remember)
    t5x_runs.train(tmp_path, base, TRAIN_STEPS=t5x_runs.BASE_STEP + 1)
    theirs = compiled[-1].cost_analysis()["flops"]
    prompt, model = (own_flops(base, rules()) for rules in (optim.prompt_rules, optim.model_rules))
    assert theirs < 1.05 * prompt
    assert model > 1.3 * prompt
