"""Several tasks' prompts that train together and have a part in common: trainer and step."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prompt_tuning_jax import optim
from prompt_tuning_jax.checkpoints.prompt_file import save_prompt
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.methods import distillation, shared_parts
from prompt_tuning_jax.methods.shared_parts import COMMON, Parts, Sharing
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.params import PROMPT_NAME
from prompt_tuning_jax.settings.setting import settings_of
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.rules import pace_of
from prompt_tuning_jax.training.runs import Run
from prompt_tuning_jax.training.set_up import Prepared
from prompt_tuning_jax.training.step_types import DeviceBatch, Key, Metrics, Params
from prompt_tuning_jax.training.train_step import loss_gradients
from prompt_tuning_jax.training.trainers import StackedTrainer, no_hidden_transfer
from prompt_tuning_jax.training.transfer.teachers import digests, find_teachers

SHARED = "shared"  # the directory of what is in common
PromptGradients = Callable[
    [jax.Array, DeviceBatch, Key, Params, jax.Array], tuple[jax.Array, Metrics]
]
"""Gradients [N, P, D] and metrics [N], from (prompts, batch, dropout keys, frozen, step number)."""
Arrays = tuple[Parts, tuple[optax.OptState, optax.OptState]]
"""The parts, and the optimizer's states: of what is in common, and [N] of each run's own."""


def sharing_of(config: TrainConfig) -> Sharing:
    """What the settings say; see `check_sharing`."""
    rows = config.prompt_length // 2 if config.share_rows is None else config.share_rows
    return Sharing(config.share, rows, config.share_rank)


def check_sharing(config: TrainConfig, configs: Mapping[str, TrainConfig]) -> None:
    """Refuses, with a ValueError, what prompts with a part in common cannot have.

    Args:
      config: what the runs have in common.
      configs: name -> the settings of each.
    """
    share = spelled("share", config.share)
    if len(configs) < 2 or SHARED in configs:
        raise ValueError(
            f"{share} is of several {spelled('runs')}, none of which is called {SHARED!r}, such as "
            "one.task=... other.task=..."
        )
    usual = settings_of(TrainConfig)
    alone = ("trainable", "shared_prompt", "halve_at", "average_decay", "prompt_parameterization")
    for name, each in configs.items():
        for setting in (*alone, "patience"):
            if getattr(each, setting) != usual[setting].default:
                raise ValueError(f"With {share} leave out {spelled(setting)} ({name!r} sets it).")
        for setting in ("train_steps", "learning_rate"):
            if getattr(each, setting) != getattr(config, setting):
                raise ValueError(
                    f"With {share} all runs train as long and as fast: set {spelled(setting)} for "
                    f"all, not for {name!r}."
                )
    if config.trains != "prompt":
        raise ValueError(
            f"{share} is of prompts, but {config.trains} trains: set {spelled('prompt_length')} "
            f"above 0, and leave out {spelled('method')}."
        )
    if config.share == "concatenate":
        if not 0 < sharing_of(config).rows < config.prompt_length:
            raise ValueError(
                f"{spelled('share_rows')} is {sharing_of(config).rows}: of {config.prompt_length} "
                "rows some are in common and some are not."
            )
    elif config.share_rows is not None:
        raise ValueError(f"{spelled('share_rows')} is for {spelled('share', 'concatenate')} alone.")
    if config.share != "product" and config.share_rank != usual["share_rank"].default:
        raise ValueError(f"{spelled('share_rank')} is for {spelled('share', 'product')} alone.")


class SharedTrainer(StackedTrainer):
    """Several runs whose prompts have a part in common. They begin and end together.

    A step in which anything is not finite changes nothing, and raises in the monitor.
    """

    def __init__(self, config: TrainConfig, prepared: Prepared, mesh: Mesh):
        self.runs, self._frozen, self._mesh = prepared.runs, prepared.frozen, mesh
        self._config, self._model = config, prepared.model
        self._log_period, self._pad_id = config.log_period, prepared.model.config.pad_id
        prompts = jnp.stack([start[PROMPT_NAME] for start in prepared.starts])
        parts = shared_parts.start(sharing_of(config), jax.random.key(config.seed), prompts)
        arrays = parts, start_states(shared_optimizer(config), parts)
        self._arrays = sharding.put(arrays, sharding.replicated(mesh))
        self._step = make_shared_step(config, self.gradients(config, prepared.model))
        self._keys = jnp.stack([run.key for run in self.runs])
        self._taught_by: list[str] = []
        if config.teachers is not None:
            teachers = find_teachers(config, self.runs, prepared.model)
            placed = sharding.put(teachers, sharding.replicated(mesh))
            self._frozen = {**self._frozen, distillation.NAME: placed}
            self._taught_by = digests(teachers)
        self._metrics: Metrics | None = None

    @property
    def identity(self) -> dict[str, Any]:
        names = [f"{run.name}: TEACHERS" for run in self.runs]
        return super().identity | dict(zip(names, self._taught_by, strict=False))

    @property
    def arrays(self) -> Arrays:
        return self._arrays

    def restore(self, step: int, arrays: Arrays, standing: Mapping[str, Any]) -> None:
        for run in self.runs:
            run.resume(standing["runs"][run.name])
        self._arrays = arrays

    def take(self, active: Sequence[Run], stack: Any = None) -> None:
        pass

    @staticmethod
    def gradients(config: TrainConfig, model: FrozenModel) -> PromptGradients:
        """Of the runs' prompts, by what `step` takes."""
        return stacked_gradients(config, model)

    @staticmethod
    def rows(mesh: Mesh) -> NamedSharding:
        """Where a batch is put."""
        return NamedSharding(mesh, PartitionSpec(None, *sharding.batch_sharding(mesh).spec))

    def step(self, batch: Mapping[str, np.ndarray], number: int) -> Metrics:
        batch = sharding.put(batch, self.rows(self._mesh))
        number = jax.device_put(np.int32(number))
        with no_hidden_transfer():
            *arrays, self._metrics, means = self._step(
                *self._arrays, self._frozen, batch, self._keys, number
            )
        self._arrays = tuple(arrays)
        return means

    def must_look(self, step: int) -> bool:
        return False

    def look(self) -> list[tuple[float, bool]]:
        losses = jax.device_get(self._metrics["loss"])
        return [(loss, True) for loss in losses.tolist()]

    def trainable(self, run: Run) -> Params:
        prompts = shared_parts.fold(self._config.share, self._arrays[0])
        return {PROMPT_NAME: prompts[self.runs.index(run)]}

    def finish(self) -> None:
        """Writes what is in common as a prompt, to start other tasks at or to stand before them."""
        identity = self._model.identity  # all hosts take part
        values = sharding.to_host(self._arrays[0][COMMON])
        if hosts.is_first():
            save_prompt(
                f"{self._config.model_dir}/{SHARED}",
                values,
                layout=self._config.prompt_layout,
                visibility=self._config.prompt_visibility,
                base_model=self._model.name,
                **identity,
                shared_by={run.name: run.outputs.scoring.name for run in self.runs},
                share=self._config.share,
            )


def shared_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Of what is in common, and of each run's own."""
    rate = optim.scheduled(*pace_of(config), config.schedule, config.warmup_steps)
    return optim.OPTIMIZERS[config.optimizer or "adafactor"](rate)


def start_states(
    optimizer: optax.GradientTransformation, parts: Parts
) -> tuple[optax.OptState, optax.OptState]:
    common, own = divided(parts)
    return optimizer.init(common), jax.vmap(optimizer.init)(own)


def divided(parts: Parts) -> tuple[Parts, Parts]:
    """What is in common, and each run's own [N, ...]."""
    own = {name: x for name, x in parts.items() if name != COMMON}
    return {COMMON: parts[COMMON]}, own


def stacked_gradients(config: TrainConfig, model: FrozenModel) -> PromptGradients:
    """By a batch of each run, [N, B, ...]."""
    gradients = loss_gradients(config, model)

    def of_one(
        prompt: jax.Array,
        batch: DeviceBatch,
        key: Key,
        teacher: Params,
        frozen: Params,
        number: jax.Array,
    ) -> tuple[jax.Array, Metrics]:
        """The gradient [P, D] of a run's prompt."""
        key = jax.random.fold_in(key, number) if config.dropout else None
        (total, tokens), grads = gradients({PROMPT_NAME: prompt}, frozen | teacher, batch, key)
        scale = tokens if config.loss_normalization == "mean" else 1
        grad = grads[PROMPT_NAME] / scale
        norm = optax.global_norm(grad)
        return grad, Metrics(loss=total / tokens, gradient_norm=norm, finite=jnp.isfinite(total))

    def of_all(
        prompts: jax.Array, batch: DeviceBatch, keys: Key, frozen: Params, number: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        teachers = {name: x for name, x in frozen.items() if name == distillation.NAME}
        given = prompts, batch, keys, teachers, frozen, number
        return jax.vmap(of_one, (0, 0, 0, 0, None, None))(*given)

    return of_all


def make_shared_step(config: TrainConfig, gradients: PromptGradients) -> Callable[..., Any]:
    """The compiled step of all runs at once, on one copy of the frozen weights.

    From (parts, optimizer's states, frozen, batch, dropout keys [N], step number); the first two
    are updated in place. Also returns the metrics of each run, and their means.
    """
    optimizer, fold = shared_optimizer(config), functools.partial(shared_parts.fold, config.share)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(
        parts: Parts,
        states: tuple[optax.OptState, optax.OptState],
        frozen: Params,
        batch: DeviceBatch,
        keys: Key,
        number: jax.Array,
    ) -> tuple[Parts, Any, Metrics, Metrics]:
        prompts, pull_back = jax.vjp(fold, parts)
        grads, metrics = gradients(prompts, batch, keys, frozen, number)
        (grads,) = pull_back(grads)  # of what is in common, the sum over the runs
        update = optimizer.update
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
            made = [
                each(*given)
                for each, *given in zip(
                    (update, jax.vmap(update)), divided(grads), states, divided(parts), strict=True
                )
            ]
        updates = {**made[0][0], **made[1][0]}
        old = dict(parts), states
        new = optax.apply_updates(old[0], updates), (made[0][1], made[1][1])
        norm = optax.global_norm(updates)
        finite = metrics["finite"].all() & jnp.isfinite(norm + metrics["gradient_norm"].sum())
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
        means = {name: metrics[name].mean() for name in ("loss", "gradient_norm")}
        return *kept, metrics, Metrics(**means, finite=finite)

    return step
