"""The runs that `train_many` trains together: their settings, their data, and how far they are."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prompt_tuning_jax.data.batches import TrainBatches
from prompt_tuning_jax.data.encoding import Batch
from prompt_tuning_jax.data.packing import PADDING
from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.params import FlatParams
from prompt_tuning_jax.settings.setting import check_value, macro_name, names_where, settings_of
from prompt_tuning_jax.settings.train_config import TrainConfig, check_settings, is_done
from prompt_tuning_jax.training import monitor
from prompt_tuning_jax.training.outputs import Reporter

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


class RunMonitor(monitor.Monitor):
    """A run's scalars, and its messages with its name before them."""

    def __init__(self, name: str, config: TrainConfig, start: int):
        directory = Path(config.model_dir)
        super().__init__(directory, start, config.train_steps, config.log_period, quiet=True)
        self._name = name

    def say(self, message: str) -> None:
        super().say(f"{self._name}: {message}")


@dataclasses.dataclass(kw_only=True, eq=False)
class Run:
    """One of the prompts: its settings, its data, and how far it has come.

    Attributes:
      start: what trains, as it begins.
      data: where its batches stand after `step`.
      healthy: false once a loss, gradient or update was not finite, which ends the run.
    """

    name: str
    config: TrainConfig
    task: Task
    start: FlatParams
    batches: TrainBatches
    reporter: Reporter
    watch: RunMonitor | None = None
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    step: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: dict[str, Any] | None = None
    healthy: bool = True

    @property
    def is_done(self) -> bool:
        done = is_done(self.config, self.step, self.history, self.best)
        return done or not self.healthy

    @property
    def is_due(self) -> bool:
        """Whether this step is one to evaluate after."""
        last = self.step == self.config.train_steps
        return self.reporter.can_evaluate and (last or self.step % self.config.eval_period == 0)

    def standing(self) -> dict[str, Any]:
        """What a resumed run must know, as JSON values."""
        names = ("data", "step", "best", "healthy")
        return {name: getattr(self, name) for name in names} | {"history": list(self.history)}

    def resume(self, saved: Mapping[str, Any]) -> None:
        for name, value in saved.items():
            setattr(self, name, value)
        self.batches.set_state(self.data)

    def look(self, trainable: FlatParams, loss: float, healthy: bool) -> None:
        """Takes note of a step's figures, and evaluates the prompt where that is due."""
        self.watch.loss, self.healthy = loss, healthy
        if not self.is_due or not healthy:
            return
        self.history.append(scores := self.reporter.evaluate(self.step, trainable, self.watch))
        self.reporter.keep_prompt(trainable, scores)
        if self.best is None or self.reporter.is_better(scores, self.best):
            self.best = scores
            self.reporter.save("best", trainable, scores)

    def finish(self, trainable: FlatParams) -> None:
        """Writes what the run leaves behind."""
        if not self.healthy:
            self.watch.say("a loss or gradient was not finite; lower its LEARNING_RATE.")
        told = self.history, self.best, self.batches, self.watch
        self.reporter.finish(self.step, trainable, *told)


class ManyBatches:
    """The next batch of every run as one, [N, B, ...], padded to the largest among them."""

    def __init__(self, runs: Sequence[Run]):
        self._streams = [run.batches for run in runs]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batches = [next(stream) for stream in self._streams]
        return {name: _stack(name, [batch[name] for batch in batches]) for name in batches[0]}

    def get_state(self) -> list[dict[str, Any]]:
        return [stream.get_state() for stream in self._streams]


def _stack(name: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    largest = np.max([x.shape for x in arrays], axis=0)  # packed batches differ in rows, too
    stacked = np.full((len(arrays), *largest), PADDING.get(name, 0), arrays[0].dtype)
    for each, x in zip(stacked, arrays, strict=True):
        each[: x.shape[0], : x.shape[1]] = x
    return stacked


def run_configs(
    config: TrainConfig, runs: Mapping[str, Mapping[str, Any]]
) -> dict[str, TrainConfig]:
    """Every run's own settings, checked; names of fields and of macros both count."""
    if not runs:
        raise ValueError(
            f"{spelled('runs')} is empty: give a name and settings for each, such as "
            "slow.learning_rate=0.1."
        )
    declared, shared = settings_of(TrainConfig), names_where(TrainConfig, "shared")
    fields = {macro_name(name): name for name in declared} | {name: name for name in declared}
    configs = {}
    for name, changes in runs.items():
        if (
            not isinstance(name, str)
            or not NAME.fullmatch(name)
            or name in ("state", "tensorboard")
        ):
            raise ValueError(
                f"{spelled('runs')}: {name!r} cannot be the name of a run's directory."
            )
        if not isinstance(changes, Mapping):
            raise ValueError(
                f"{spelled('runs')}: {name!r} needs settings, {{'learning_rate': 0.1}} or {{}}."
            )
        for given, value in changes.items():
            nearest = difflib.get_close_matches(str(given), fields, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else "."
            if given not in fields:
                raise ValueError(
                    f"{spelled('runs')}: {name!r} sets {given}, which is no setting{hint}"
                )
            if fields[given] in shared:
                raise ValueError(
                    f"{spelled('runs')}: {name!r} sets {given}, which all runs have in common: set "
                    "it for all, "
                    "or start another command."
                )
            check_value(declared[fields[given]], value, f"{spelled('runs')}: {name!r}: {given}")
        own = {fields[given]: value for given, value in changes.items()}
        if len(own) < len(changes):
            raise ValueError(
                f"{spelled('runs')}: {name!r} sets a setting twice, as {', '.join(changes)}."
            )
        directory = str(Path(config.model_dir) / name)
        configs[name] = dataclasses.replace(config, model_dir=directory, runs=None, **own)
        check_settings(configs[name])
    return configs
