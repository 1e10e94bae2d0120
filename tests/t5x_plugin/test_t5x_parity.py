"""T5X takes the steps of this library's own trainer, on one device and on eight."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import own_trainer
import pytest
import t5x_runs
import xla_flags
from train_on_devices import MESHES

from prompt_tuning_jax import FrozenModel, optim
from prompt_tuning_jax.params import split_params, unflatten
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.train_step import make_train_step

pytestmark = pytest.mark.t5x
TESTS = Path(__file__).parents[1]
# One step moves an element by about 0.3; from equal prompts and optimizer states, rounding moves
# it by 3e-6 (the largest of twenty steps).
ONE_STEP = 2e-5


@pytest.fixture(scope="module")
def twenty_steps(base, tmp_path_factory):
    """MODEL_DIR of twenty steps, from 3 to 23, with a checkpoint after each."""
    model_dir = tmp_path_factory.mktemp("twenty")
    t5x_runs.train(model_dir, base, TRAIN_STEPS=own_trainer.LAST_STEP, CHECKPOINT_PERIOD=1)
    return model_dir


@pytest.fixture(scope="module")
def ours(base):
    return own_trainer.Trainer(base, t5x_runs.TASK["BATCH_SIZE"])


def own_flops(base, rules):
    """What XLA counts in our own step, on the batches of these runs."""
    model = FrozenModel(t5x_runs.CONFIG, unflatten(t5x_runs.weights(base)))
    params = model.prompted(np.zeros((5, t5x_runs.CONFIG.emb_dim), np.float32)).params
    trainable, frozen = split_params(params, rules)
    optimizer = optim.make_optimizer(trainable, rules)
    step = make_train_step(TrainConfig(dropout_rate=0.0), model, optimizer)
    batch = next(own_trainer.batches(t5x_runs.TASK["BATCH_SIZE"]))
    state = optimizer.init(trainable)
    lowered = step.lower(trainable, state, frozen, batch, jax.random.key(0))
    return lowered.compile().cost_analysis()["flops"]


def assert_same_steps(model_dir, trainer, steps):
    """Each of T5X's steps is our own from the prompt and the optimizer's state before it."""
    for step in steps:
        found = t5x_runs.prompt(model_dir / f"checkpoint_{step}")
        before = model_dir / f"checkpoint_{step - 1}"
        expected = trainer.after(before)
        assert np.abs(expected - t5x_runs.prompt(before)).mean() > 0.01
        np.testing.assert_allclose(found, expected, rtol=0, atol=ONE_STEP, err_msg=str(step))


def test_every_step_is_our_own_trainers(twenty_steps, ours):
    assert_same_steps(twenty_steps, ours, range(t5x_runs.BASE_STEP + 1, own_trainer.LAST_STEP + 1))


def test_twenty_steps_are_those_of_our_own_trainer(twenty_steps, ours):
    """No further apart than rounding, in the same steps, carries our own trainer from itself."""
    first = t5x_runs.prompt(twenty_steps / f"checkpoint_{t5x_runs.BASE_STEP}")
    rounding = ours.rounding(first)
    for step, expected in ours.run(first).items():
        found = t5x_runs.prompt(twenty_steps / f"checkpoint_{step}")
        bound = 2 * rounding[step]
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound, err_msg=str(step))
    assert np.abs(expected - first).mean() > 0.3


def test_the_step_counts_from_the_base_checkpoint(twenty_steps, base, ours):
    """Counted from 0, the first steps would forget the second moment faster."""
    from_zero = own_trainer.Trainer(base, t5x_runs.TASK["BATCH_SIZE"], start_step=0)
    before = twenty_steps / "checkpoint_6"
    assert np.abs(ours.after(before) - from_zero.after(before)).max() > 100 * ONE_STEP


def test_eight_devices_take_the_same_steps(base, tmp_path):
    """Data parallel, and data x model; with one and two microbatches."""
    environment = os.environ | {
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS / "t5x_plugin"))),
        "XLA_FLAGS": xla_flags.devices(8),
    }
    command = [sys.executable, TESTS / "t5x_plugin" / "train_on_devices.py", base, tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    trainer = own_trainer.Trainer(base, 16)
    runs = sorted(path.name for path in tmp_path.iterdir())
    assert runs == [f"{mesh}_{n}" for mesh in sorted(MESHES) for n in (1, 2)]
    for name in runs:
        assert_same_steps(tmp_path / name, trainer, range(4, 8))
    for name in ("data4_model2_1", "data4_submesh2_1"):
        split = (tmp_path / name / "model-info.txt").read_text()
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
