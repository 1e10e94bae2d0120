"""The points of a grid of settings, and which of them can train together."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prompt_tuning_jax.errors import UsageError, spelled
from prompt_tuning_jax.settings.setting import (
    check_value,
    kinds_of,
    names_where,
    nearest_hint,
    settings_of,
)
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.settings.values import read, takes_several
from prompt_tuning_jax.training.runs import DATA

# What a sweep sets itself, or that makes scores incomparable.
NOT_IN_A_GRID = ("model_dir", "runs", *DATA)


class Trial(NamedTuple):
    """One point of the grid.

    Attributes:
      name: of its directory.
      shared: its settings that all runs of a job have in common, such as the prompt's length.
      own: the others.
    """

    name: str
    shared: Mapping[str, Any]
    own: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.shared, **self.own}


def values_of(grid: Mapping[str, Any] | None) -> dict[str, list[Any]]:
    """Setting -> the values that are tried; words such as "0.1,0.3" are read as the setting's own.

    Raises:
      UsageError: no grid, an unknown setting, one that is none of a grid's, or a wrong value.
    """
    if not grid:
        raise UsageError(
            f"{spelled('grid')} is empty: say what to try, such as learning_rate=0.1,0.3 "
            "seed=0,1,2."
        )
    fields, found = settings_of(TrainConfig), {}
    for name, given in grid.items():
        place = f"{spelled('grid')}: {name}"
        if name not in fields:
            raise UsageError(f"{place} is no setting{nearest_hint(name, fields)}")
        if name in NOT_IN_A_GRID:
            raise UsageError(f"{place} cannot be swept: a grid is of one task.")
        values = [_read(name, word) for word in _words(given)]
        for value in values:
            check_value(fields[name], value, place)
        if not values:
            raise UsageError(f"{place} has no values.")
        if len({repr(value) for value in values}) < len(values):
            raise UsageError(f"{place} has a value twice.")
        found[name] = values
    return found


def trials_of(values: Mapping[str, Sequence[Any]]) -> list[Trial]:
    """Every combination, the last setting's values fastest."""
    shared = names_where(TrainConfig, "shared")
    points = [
        dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())
    ]
    digits = len(str(len(points) - 1))
    return [
        Trial(
            f"trial{number:0{digits}}",
            {name: x for name, x in point.items() if name in shared},
            {name: x for name, x in point.items() if name not in shared},
        )
        for number, point in enumerate(points)
    ]


def jobs_of(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials that train together, in the order of the first of each."""
    jobs: dict[str, list[Trial]] = {}
    for trial in trials:
        jobs.setdefault(repr(sorted(trial.shared.items())), []).append(trial)
    return list(jobs.values())


def _words(given: Any) -> list[Any]:
    if isinstance(given, str):
        return given.split(",")
    return list(given) if isinstance(given, Sequence) else [given]


def _read(name: str, word: Any) -> Any:
    annotation = settings_of(TrainConfig)[name].type
    if not isinstance(word, str) or kinds_of(annotation) == (str,):
        return word
    if takes_several(annotation):
        raise UsageError(f"{spelled('grid')}: {name} is a list itself; pass lists of it in Python.")
    return read(name, annotation, [word])
