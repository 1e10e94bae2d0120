"""Several tasks' prompts that have a part in common, trained on batches that mix the tasks."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.params import PROMPT_NAME
from prompt_tuning_jax.settings.task_config import lengths_of
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.runs import Run
from prompt_tuning_jax.training.step_types import DeviceBatch, Key, Metrics, Params
from prompt_tuning_jax.training.train_step import loss_gradients
from prompt_tuning_jax.training.transfer.mixed_batches import MixedBatches, rate_of
from prompt_tuning_jax.training.transfer.shared_trainer import PromptGradients, SharedTrainer


def check_mixture(config: TrainConfig, configs: Mapping[str, TrainConfig]) -> None:
    """Refuses, with a ValueError, what a batch of several tasks cannot have.

    Args:
      config: what the runs have in common.
      configs: name -> the settings of each.
    """
    if not config.mix_tasks:
        if any(each.task_rate is not None for each in configs.values()):
            raise ValueError(
                f"{spelled('task_rate')} is how often a task comes in a mixed batch: set "
                f"{spelled('mix_tasks', True)}, or leave it out."
            )
        return
    mixed = spelled("mix_tasks", True)
    if config.share is None:
        raise ValueError(
            f"{mixed} is for prompts with a part in common: set {spelled('share')}, or leave it "
            "out, and each run has its own batches."
        )
    if config.pack:
        raise ValueError(f"With {mixed} leave out {spelled('pack')}.")
    if config.wayward_text is not None:
        raise ValueError(f"With {mixed} leave out {spelled('wayward_text')}.")
    for name, each in configs.items():
        if lengths_of(each.feature_lengths) != lengths_of(config.feature_lengths):
            raise ValueError(
                f"With {mixed} examples of all runs are rows of one batch: set "
                f"{spelled('feature_lengths')} for all, not for {name!r}."
            )


class MixedTrainer(SharedTrainer):
    """Several runs that share a part, and whose examples are rows of the same batches."""

    @staticmethod
    def copies(runs: int) -> int | None:
        return None

    @staticmethod
    def gradients(config: TrainConfig, model: FrozenModel) -> PromptGradients:
        return mixed_gradients(config, model)

    @staticmethod
    def rows(mesh: Mesh) -> NamedSharding:
        return sharding.batch_sharding(mesh)

    def batches(self, active: Sequence[Run]) -> MixedBatches:
        rates = [
            rate_of(run.name, run.config.task_rate, run.outputs.scoring.task) for run in active
        ]
        return MixedBatches([run.batches for run in active], rates, self._config.batch_size)


def mixed_gradients(config: TrainConfig, model: FrozenModel) -> PromptGradients:
    """By one batch [B, ...], whose `prompt_ids` [B] say which run's prompt a row has.

    The loss of each run is that of the whole batch. A run of which it holds no row has a gradient
    of 0.
    """
    gradients = loss_gradients(config, model)

    def of_all(
        prompts: jax.Array, batch: DeviceBatch, keys: Key, frozen: Params, number: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        key = jax.random.fold_in(keys[0], number) if config.dropout else None
        (total, tokens), grads = gradients({PROMPT_NAME: prompts}, frozen, batch, key)
        scale = tokens if config.loss_normalization == "mean" else 1
        grad = grads[PROMPT_NAME] / scale
        norms = jax.vmap(optax.global_norm)(grad)
        metrics = Metrics(
            loss=jnp.broadcast_to(total / tokens, norms.shape),
            gradient_norm=norms,
            finite=jnp.broadcast_to(jnp.isfinite(total), norms.shape),
        )
        return grad, metrics

    return of_all
