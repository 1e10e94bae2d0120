"""The steps of T5X's runs, taken by this library's own trainer."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import t5x_runs

from prompt_tuning_jax import FrozenModel, optim
from prompt_tuning_jax.checkpoints.t5x.checkpoint import open_checkpoint
from prompt_tuning_jax.params import PROMPT_NAME, unflatten
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.train_step import make_train_step

NAME = PROMPT_NAME
LAST_STEP = 23
NOISE = 1e-6  # of the prompt's start: about what the rounding of a gradient's sums is of it
SEEDS = (0, 1, 2)


def batches(size: int) -> Iterator[dict[str, np.ndarray]]:
    """What T5X's training data are, for the settings of these runs."""
    import seqio
    from t5x import utils

    cfg = utils.DatasetConfig(
        mixture_or_task_name=t5x_runs.TASK["MIXTURE_OR_TASK_NAME"],
        module=t5x_runs.TASK["MIXTURE_OR_TASK_MODULE"],
        task_feature_lengths=t5x_runs.TASK["TASK_FEATURE_LENGTHS"],
        split="train",
        batch_size=size,
        shuffle=True,
        seed=0,
    )
    return utils.get_dataset(cfg, 0, 1, seqio.EncDecFeatureConverter).as_numpy_iterator()


class Trainer:
    """Our own step for a base checkpoint of these runs, on one device."""

    def __init__(self, base: Path, size: int, start_step: int = t5x_runs.BASE_STEP):
        self.weights = t5x_runs.weights(base)
        model = FrozenModel(t5x_runs.CONFIG, unflatten(self.weights))
        shape = {NAME: np.zeros((5, t5x_runs.CONFIG.emb_dim), np.float32)}
        self.optimizer = optim.make_optimizer(shape, optim.prompt_rules(0.3, start_step))
        self.step = make_train_step(TrainConfig(dropout_rate=0.0), model, self.optimizer)
        count = LAST_STEP - t5x_runs.BASE_STEP
        self.batches = [batch for batch, _ in zip(batches(size), range(count), strict=False)]

    def run(self, first: np.ndarray) -> dict[int, np.ndarray]:
        """Step -> the prompt then, in one run that starts from `first`."""
        prompt = {NAME: jax.numpy.array(first)}
        state, prompts = self.optimizer.init(prompt), {}
        for number, batch in enumerate(self.batches, t5x_runs.BASE_STEP + 1):
            prompt, state, _ = self.step(prompt, state, self.weights, batch, jax.random.key(0))
            prompts[number] = np.asarray(prompt[NAME])
        return prompts

    def after(self, checkpoint: Path) -> np.ndarray:
        """The prompt one step after one of T5X's checkpoints, from all that it holds."""
        found = open_checkpoint(checkpoint)
        prompt = {NAME: jax.numpy.array(found.leaf(NAME).read())}
        state = {name.split("inner_state/0/")[-1]: x for name, x in _optimizer(found).items()}
        theirs = jax.tree_util.tree_map_with_path(
            lambda path, leaf: state[_name(path)].astype(leaf.dtype), self.optimizer.init(prompt)
        )
        batch = self.batches[found.step - t5x_runs.BASE_STEP]
        prompt, _, _ = self.step(prompt, theirs, self.weights, batch, jax.random.key(0))
        return np.asarray(prompt[NAME])

    def rounding(self, first: np.ndarray) -> dict[int, float]:
        """Step -> how far rounding alone has carried a prompt then.

        Adafactor divides by the gradients' own size, so a difference in their last digits grows
        with every step. It is measured: the largest difference from `run(first)` among runs whose
        starts are `NOISE` away from `first`.
        """
        expected, found = self.run(first), []
        for seed in SEEDS:
            noise = np.random.default_rng(seed).uniform(-NOISE, NOISE, first.shape)
            found.append(self.run((first * (1 + noise)).astype(np.float32)))
        return {n: max(np.abs(run[n] - x).max() for run in found) for n, x in expected.items()}


def _optimizer(found: Any) -> dict[str, np.ndarray]:
    leaves = found.leaves("state/param_states/")
    return {name: leaf.read() for name, leaf in leaves.items()}


def _name(path: Sequence[Any]) -> str:
    """A leaf of optax's state as T5X names it: `v/encoder/prompt/prompt`, `count`."""
    keys = [getattr(key, "name", None) or getattr(key, "key", None) for key in path]
    names = [str(key) for key in keys if key is not None]
    start = next(i for i, name in enumerate(names) if name in ("count", "v", "v_row", "v_col"))
    return "/".join(names[start:])
