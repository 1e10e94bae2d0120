"""The trainable parameters and the step that updates them: of one run, or of several.

Whatever is different between one run and several, the loop in `train.py` leaves to a trainer.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prompt_tuning_jax.data.encoding import Batch
from prompt_tuning_jax.data.packing import padding
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.methods.adapters.choice import without_leaves
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.optim import averages
from prompt_tuning_jax.params import PROMPT_NAME, without_prompt
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.monitor import Log, Monitor
from prompt_tuning_jax.training.rules import Pace, make_optimizer, pace_of, start_optimizer
from prompt_tuning_jax.training.runs import Run, RunBatches
from prompt_tuning_jax.training.set_up import Prepared
from prompt_tuning_jax.training.step_types import DeviceBatch, Key, Metrics, Params
from prompt_tuning_jax.training.train_step import make_train_step, step_function

Stack = tuple[Params, optax.OptState, jax.Array]
"""What trains [N, P, D], its optimizers' states, and whether each run is healthy [N]."""

# In a step nothing may go to the devices unasked: a batch is put there, and all else is there.
no_hidden_transfer = functools.partial(jax.transfer_guard_host_to_device, "disallow")


class Trainer(Protocol):
    """The trainable parameters of some runs, their optimizers' state, and their common step.

    Attributes:
      runs: in the order of the arrays.
      identity: what tells these runs from others.
      arrays: the trainable parameters and their optimizer's state, as they are saved.
    """

    runs: list[Run]
    identity: dict[str, Any]
    arrays: Any

    def __init__(self, config: TrainConfig, prepared: Prepared, mesh: Mesh):
        """From settings that the runs have in common."""

    @staticmethod
    def check(trainable: Params) -> None:
        """Refuses, with a ValueError, to train these parameters of a run."""

    @staticmethod
    def copies(runs: int) -> int | None:
        """N, of the arrays and of the batch; None where they have no such axis."""

    def standing(self) -> dict[str, Any]:
        """What is saved beside the arrays, as JSON values."""

    def restore(self, step: int, arrays: Any, standing: Mapping[str, Any]) -> None:
        """Goes back to what was saved after `step`, the runs as well."""

    def open_log(self, run: Run, monitor: Monitor) -> contextlib.AbstractContextManager[Log]:
        """Where the run's own scalars and messages go."""

    def take(self, active: Sequence[Run]) -> None:
        """From now on the steps are these runs'."""

    def batches(self, active: Sequence[Run]) -> RunBatches:
        """Those that `step` takes, of the active runs."""

    def step(self, batch: Batch, number: int) -> Metrics:
        """Starts a step of the active runs, and returns at once; `number` counts from 0."""

    def must_look(self, step: int) -> bool:
        """Whether `look` is needed after this step, though no run is due or done."""

    def look(self) -> list[tuple[float, bool]]:
        """The last step's loss of each active run, and whether the run is healthy."""

    def trainable(self, run: Run) -> Params:
        """The trainable parameters of one of the runs."""

    def finish(self) -> None:
        """Writes what runs leave behind together, beside what each of them does."""


class SingleTrainer:
    """One run, in which anything may train. A step that is not finite raises in the monitor."""

    def __init__(self, config: TrainConfig, prepared: Prepared, mesh: Mesh):
        self.runs, (trainable,) = prepared.runs, prepared.starts
        model, self._frozen = prepared.model, prepared.frozen
        optimizer = make_optimizer(config, trainable)
        self.arrays = trainable, start_optimizer(mesh, model, optimizer, trainable)
        self._step = make_train_step(config, model, optimizer)
        self._key, self._rows = self.runs[0].key, sharding.batch_sharding(mesh)
        self._metrics: Metrics | None = None

    @staticmethod
    def check(trainable: Params) -> None:
        pass

    @staticmethod
    def copies(runs: int) -> int | None:
        return None

    @property
    def identity(self) -> dict[str, Any]:
        return dict(self.runs[0].identity)

    def standing(self) -> dict[str, Any]:
        standing = self.runs[0].standing()
        return {name: standing[name] for name in ("data", "history", "best")}

    def restore(self, step: int, arrays: Any, standing: Mapping[str, Any]) -> None:
        self.arrays = arrays
        self.runs[0].resume({**standing, "step": step})

    def open_log(self, run: Run, monitor: Monitor) -> contextlib.AbstractContextManager[Log]:
        return contextlib.nullcontext(monitor)

    def take(self, active: Sequence[Run]) -> None:
        pass

    def batches(self, active: Sequence[Run]) -> RunBatches:
        return RunBatches(active, lambda batches: batches[0])

    def step(self, batch: Batch, number: int) -> Metrics:
        batch, number = sharding.put(batch, self._rows), jax.device_put(np.uint32(number))
        with no_hidden_transfer():
            key = jax.random.fold_in(self._key, number)
            *arrays, self._metrics = self._step(*self.arrays, self._frozen, batch, key)
        self.arrays = tuple(arrays)
        return self._metrics

    def must_look(self, step: int) -> bool:
        return False

    def look(self) -> list[tuple[float, bool]]:
        loss, finite = jax.device_get((self._metrics["loss"], self._metrics["finite"]))
        return [(float(loss), bool(finite))]

    def trainable(self, run: Run) -> Params:
        trainable, opt_state = self.arrays
        return averages(opt_state) or trainable

    def finish(self) -> None:
        pass


class StackedTrainer:
    """Several runs, each of a prompt, on one copy of the frozen model; their steps are one.

    A run whose loss, gradient or update is not finite keeps its last good prompt from there on.
    """

    def __init__(self, config: TrainConfig, prepared: Prepared, mesh: Mesh):
        self.runs, self._frozen, self._mesh = prepared.runs, prepared.frozen, mesh
        self._log_period, self._pad_id = config.log_period, prepared.model.config.pad_id
        self._stack = sharding.put(start_stack(config, prepared.starts), sharding.replicated(mesh))
        self._step = make_stacked_step(config, prepared.model)
        self._metrics: Metrics | None = None
        self.take(self.runs, self._stack)

    @staticmethod
    def check(trainable: Params) -> None:
        if weights := without_leaves(without_prompt(trainable)):
            raise ValueError(
                f"Runs together share the model's weights, so only {PROMPT_NAME!r} can "
                f"train, not {', '.join(sorted(weights))}."
            )

    @staticmethod
    def copies(runs: int) -> int | None:
        return runs

    @property
    def identity(self) -> dict[str, Any]:
        names = sorted(run.name for run in self.runs)
        settings = {f"{r.name}: {key}": x for r in self.runs for key, x in r.identity.items()}
        return {"RUNS": names} | settings

    @property
    def arrays(self) -> Stack:
        """The stack, with the active runs' rows as they are now."""
        return jax.tree.map(lambda x, new: x.at[self._rows].set(new), self._stack, self._part)

    def standing(self) -> dict[str, Any]:
        return {"runs": {run.name: run.standing() for run in self.runs}}

    def restore(self, step: int, arrays: Stack, standing: Mapping[str, Any]) -> None:
        for run in self.runs:
            run.resume(standing["runs"][run.name])
        self.take(self.runs, arrays)

    def open_log(self, run: Run, monitor: Monitor) -> contextlib.AbstractContextManager[Log]:
        return contextlib.closing(Log(Path(run.config.model_dir), run.step, run.name))

    def take(self, active: Sequence[Run], stack: Stack | None = None) -> None:
        self._stack = self.arrays if stack is None else stack
        self._rows = np.array([self.runs.index(run) for run in active])
        self._part = take_rows(self._stack, self._rows, self._mesh)
        self._keys, self._paces = jnp.stack([run.key for run in active]), paces(active)

    def batches(self, active: Sequence[Run]) -> RunBatches:
        return RunBatches(active, self._merged)

    def _merged(self, batches: Sequence[Batch]) -> Batch:
        """As one, [N, B, ...], padded to the largest among them."""
        return {
            name: _pad([batch[name] for batch in batches], padding(name, self._pad_id))
            for name in batches[0]
        }

    def step(self, batch: Batch, number: int) -> Metrics:
        rows = PartitionSpec(None, *sharding.batch_sharding(self._mesh).spec)  # of each run
        batch = sharding.put(batch, NamedSharding(self._mesh, rows))
        told = self._keys, self._paces, jax.device_put(np.int32(number))
        with no_hidden_transfer():
            self._part, self._metrics, means = self._step(self._part, self._frozen, batch, *told)
        return means

    def must_look(self, step: int) -> bool:
        """At every line of the log, to see whether a run is not finite any more and must end."""
        return step % self._log_period == 0

    def look(self) -> list[tuple[float, bool]]:
        losses, healthy = jax.device_get((self._metrics["loss"], self._part[2]))
        return list(zip(losses.tolist(), healthy.tolist(), strict=True))

    def trainable(self, run: Run) -> Params:
        i = self.runs.index(run)
        at_work = np.flatnonzero(self._rows == i)
        stack, row = (self._part, int(at_work[0])) if at_work.size else (self._stack, i)
        trainable, opt_state, _ = stack
        return {name: x[row] for name, x in (averages(opt_state) or trainable).items()}

    def finish(self) -> None:
        pass


def make_stacked_step(
    config: TrainConfig, model: FrozenModel
) -> Callable[..., tuple[Stack, Metrics, Metrics]]:
    """The compiled step of some runs at once, on one copy of the frozen weights.

    From (stack, frozen, batch [N, B, ...], dropout keys [N], paces [N], step number); the
    stack is updated in place. Also returns the metrics of each run, and their means.
    """
    step_one = step_function(config, model)

    def one(
        stack: Stack,
        frozen: Params,
        batch: DeviceBatch,
        key: Key,
        pace: Pace,
        step: jax.Array,
    ) -> tuple[Stack, Metrics]:
        trainable, opt_state, healthy = stack
        optimizer = make_optimizer(config, trainable, pace)
        key = jax.random.fold_in(key, step)
        *new, metrics = step_one(optimizer, trainable, opt_state, frozen, batch, key)
        healthy &= metrics["finite"]
        keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(healthy, new, old))
        return (*keep(tuple(new), (trainable, opt_state)), healthy), metrics

    @functools.partial(jax.jit, donate_argnums=0)
    def step_all(
        stack: Stack,
        frozen: Params,
        batch: DeviceBatch,
        keys: Key,
        paces: Pace,
        step: jax.Array,
    ) -> tuple[Stack, Metrics, Metrics]:
        in_axes = (0, None, 0, 0, 0, None)
        stack, metrics = jax.vmap(one, in_axes)(stack, frozen, batch, keys, paces, step)
        means = {name: metrics[name].mean() for name in ("loss", "gradient_norm")}
        return stack, metrics, Metrics(**means, finite=True)

    return step_all


def start_stack(config: TrainConfig, starts: Sequence[Params]) -> Stack:
    """The runs' starts as one stack; `config` has what they share."""
    trainable = jax.tree.map(lambda *xs: jnp.stack(xs), *starts)
    init = make_optimizer(config, starts[0]).init
    return trainable, jax.jit(jax.vmap(init))(trainable), jnp.ones(len(starts), bool)


def take_rows(stack: Stack, rows: np.ndarray, mesh: Mesh) -> Stack:
    """Copies of some runs' arrays, placed as a step returns them: it is not compiled again."""
    return sharding.put(jax.tree.map(lambda x: x[rows], stack), sharding.replicated(mesh))


def paces(runs: Sequence[Run]) -> Pace:
    """Of all runs, each [N] float32."""
    each = [pace_of(run.config) for run in runs]
    return Pace(*(jnp.array(numbers, jnp.float32) for numbers in zip(*each, strict=True)))


def _pad(arrays: Sequence[np.ndarray], value: int) -> np.ndarray:
    """Arrays of the runs' batches as one; packed batches differ in rows, too."""
    largest = np.max([x.shape for x in arrays], axis=0)
    stacked = np.full((len(arrays), *largest), value, arrays[0].dtype)
    for each, x in zip(stacked, arrays, strict=True):
        each[tuple(map(slice, x.shape))] = x
    return stacked
