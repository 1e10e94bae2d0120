"""Runs: how far each of them is, what it reads next, and the settings of several."""

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_tuning_jax.data.batches import TrainBatches
from prompt_tuning_jax.data.encoding import Batch
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.settings.setting import check_value, macro_name, names_where, settings_of
from prompt_tuning_jax.settings.train_config import TrainConfig, check_settings
from prompt_tuning_jax.training import run_lock
from prompt_tuning_jax.training.monitor import Log
from prompt_tuning_jax.training.outputs import Outputs, Scores
from prompt_tuning_jax.training.step_types import Key, Params
from prompt_tuning_jax.training.transfer.nearest import told

# Settings whose scores do not compare.
DATA = (
    *("task", "task_module", "data_dir", "train_file", "validation_file", "validation_share"),
    *("task_field", "task_id", "missing", "metric", "positive", "eval_split", "eval_limit"),
)
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
# What several runs write beside their directories.
TAKEN = ("state", "tensorboard", "index", run_lock.NAME)


@dataclasses.dataclass(kw_only=True, eq=False)
class Run:
    """One run, alone or among others: its settings, its data, and how far it has come.

    Attributes:
      name: empty for a run alone.
      identity: what makes two runs the same run.
      key: of its dropout, and of a private run's noise.
      outputs: scores it and writes what it leaves behind; knows its task.
      log: its scalars and messages, once it is under way.
      data: where its batches stand after `step`.
      best: the best of `history`.
      healthy: false once a loss, gradient or update was not finite, which ends the run.
      dropped: true once it ended for better ones to go on.
    """

    name: str
    config: TrainConfig
    identity: Mapping[str, Any]
    batches: TrainBatches
    outputs: Outputs
    key: Key
    log: Log | None = None
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    step: int = 0
    history: list[Scores] = dataclasses.field(default_factory=list)
    best: Scores | None = None
    healthy: bool = True
    dropped: bool = False

    @property
    def is_done(self) -> bool:
        """Whether it broke, was dropped, has had its steps, or waited long enough for a better."""
        if not self.healthy or self.dropped or self.step >= self.config.train_steps:
            return True
        if self.config.patience is None or self.best is None:
            return False
        later = [scores for scores in self.history if scores["step"] > self.best["step"]]
        return len(later) >= self.config.patience

    @property
    def is_due(self) -> bool:
        """Whether this step is one to evaluate after."""
        last = self.step == self.config.train_steps
        due = last or self.step % self.config.eval_period == 0
        return due and self.healthy and self.outputs.can_evaluate

    def standing(self) -> dict[str, Any]:
        """What a resumed run must know, as JSON values."""
        names = ("data", "step", "best", "healthy", "dropped")
        # The list is a copy: it is written while the run goes on.
        return {name: getattr(self, name) for name in names} | {"history": list(self.history)}

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Goes on from a `standing`, or from as much of one as was saved."""
        for name, value in saved.items():
            setattr(self, name, value)
        self.batches.set_state(self.data)

    def begin(self, trainable: Params) -> None:
        """Keeps the prompt as it starts, and says where that is if other prompts led to it."""
        if self.outputs.start is not None:
            self.log.say(told(self.outputs.start))
        self.outputs.scoring.begin()
        self.outputs.keep_prompt(trainable, {"step": 0})

    def evaluate(self, trainable: Params) -> None:
        """Scores the run as it is now, and keeps the best."""
        scores = self.outputs.evaluate(self.step, trainable, self.log)
        self.history.append(scores)
        self.outputs.keep_prompt(trainable, scores)
        if self.best is None or self.outputs.is_better(scores, self.best):
            self.best = scores
            self.outputs.save("best", trainable, scores)

    def finish(self, trainable: Params) -> None:
        """Writes what the run leaves behind."""
        if not self.healthy:
            rate = spelled("learning_rate")
            self.log.say(f"a loss or gradient was not finite; lower its {rate}.")
        outcome = self.history, self.best, self.batches, self.log
        self.outputs.finish(self.step, trainable, *outcome)


def drop_worse_half(runs: Sequence[Run], step: int) -> None:
    """After a step that is one of `halve_at`, ends the half of the runs whose best is worse.

    An odd one stays. Runs without a score are the worst, and of equal ones the first stays.
    """
    if step not in (runs[0].config.halve_at or ()) or len(runs) < 2:
        return

    def order(one: Run, other: Run) -> int:
        if one.best is None or other.best is None:
            return (one.best is None) - (other.best is None)
        better, worse = (
            one.outputs.is_better(a.best, b.best) for a, b in ((one, other), (other, one))
        )
        return worse - better

    ranked = sorted(runs, key=functools.cmp_to_key(order))
    for run in ranked[(len(ranked) + 1) // 2 :]:
        run.dropped = True
        run.log.say(f"ends at step {step}: better runs go on.")


class RunBatches:
    """The next batch of every run, made one by `merge`, and where each of them then stands.

    Attributes:
      examples: in a batch of all.
    """

    def __init__(self, runs: Sequence[Run], merge: Callable[[Sequence[Batch]], Batch]):
        self._streams, self._merge = [run.batches for run in runs], merge
        self.examples = sum(run.config.batch_size for run in runs)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return self._merge([next(stream) for stream in self._streams])

    def get_state(self) -> list[dict[str, Any]]:
        return [stream.get_state() for stream in self._streams]


def check_level(runs: Sequence[Run], step: int) -> None:
    """Refuses a run that had ended before the others and would now go on."""
    for run in runs:
        if run.step != step and not run.is_done:
            raise ValueError(
                f"{spelled('runs')}: {run.name!r} had ended at step {run.step}, and the others "
                f"stand at {step}: its {spelled('train_steps')} or {spelled('patience')} cannot be "
                f"raised now. Train it in a {spelled('model_dir')} of its own; "
                f"{spelled('prompt_init')} may be {run.config.model_dir}/last."
            )


def run_configs(
    config: TrainConfig, runs: Mapping[str, Mapping[str, Any]]
) -> dict[str, TrainConfig]:
    """Every run's own settings, checked; a setting is known by its name or its gin macro."""
    if not runs:
        raise ValueError(
            f"{spelled('runs')} is empty: give a name and settings for each, such as "
            "slow.learning_rate=0.1."
        )
    declared, shared = settings_of(TrainConfig), names_where(TrainConfig, "shared")
    fields = {macro_name(name): name for name in declared} | {name: name for name in declared}
    configs = {}
    for name, changes in runs.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in TAKEN:
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
                    "it for all, or start another command."
                )
            check_value(declared[fields[given]], value, f"{spelled('runs')}: {name!r}: {given}")
        own = {fields[given]: value for given, value in changes.items()}
        if config.halve_at is not None and own.keys() & DATA:
            raise ValueError(
                f"{spelled('halve_at')} compares runs of the same data, but {name!r} has data of "
                f"its own: leave one of both out."
            )
        if len(own) < len(changes):
            raise ValueError(
                f"{spelled('runs')}: {name!r} sets a setting twice, as {', '.join(changes)}."
            )
        directory = str(Path(config.model_dir) / name)
        configs[name] = dataclasses.replace(config, model_dir=directory, runs=None, **own)
        check_settings(configs[name])
    last = max(each.train_steps for each in configs.values())
    if config.halve_at and max(config.halve_at) >= last:
        raise ValueError(
            f"{spelled('halve_at')} {max(config.halve_at)} ends runs that have ended by then: the "
            f"longest has {spelled('train_steps')} {last}."
        )
    return configs
