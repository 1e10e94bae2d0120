"""What came of a sweep: its rows, best first, as a table, as JSON and as a picture."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.devices import hosts

SHOWN = 20  # rows of the table


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One trial as it came out.

    Attributes:
      settings: of the grid.
      curve: (step, score) of each evaluation; empty of a run that broke before the first.
    """

    settings: Mapping[str, Any]
    directory: Path
    metric: str
    curve: tuple[tuple[int, float], ...]

    @property
    def rank(self) -> float:
        """Its best score, greater is better; that of a run without a score is the least."""
        scores = [self._signed(score) for _, score in self.curve if not math.isnan(score)]
        return max(scores, default=-math.inf)

    @property
    def score(self) -> float:
        return self._signed(self.rank)

    @property
    def steps(self) -> int:
        """How far it came."""
        return self.curve[-1][0] if self.curve else 0

    def _signed(self, score: float) -> float:
        return -score if self.metric == "loss" else score


@dataclasses.dataclass(frozen=True)
class Row:
    """Trials that differ in nothing but the seed."""

    settings: Mapping[str, Any]
    outcomes: Sequence[Outcome]

    @property
    def rank(self) -> tuple[float, float]:
        """By the mean over seeds, then by the worst of them."""
        ranks = [outcome.rank for outcome in self.outcomes]
        return float(np.mean(ranks)), min(ranks)

    @property
    def steps(self) -> int:
        return max(outcome.steps for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": {name: _plain(value) for name, value in self.settings.items()},
            "trials": [
                {
                    "directory": "/".join(outcome.directory.parts[-2:]),
                    "settings": {name: _plain(x) for name, x in outcome.settings.items()},
                    "score": outcome.score if outcome.curve else None,
                    "curve": outcome.curve,
                }
                for outcome in self.outcomes
            ],
        }


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """The outcomes by their settings without the seed, the best row first."""
    rows: dict[str, tuple[dict[str, Any], list[Outcome]]] = {}
    for outcome in outcomes:
        settings = {name: x for name, x in outcome.settings.items() if name != "seed"}
        rows.setdefault(repr(sorted(settings.items())), (settings, []))[1].append(outcome)
    return sorted((Row(*row) for row in rows.values()), key=lambda row: row.rank, reverse=True)


def write_report(directory: Path, outcomes: Sequence[Outcome], metric: str) -> list[Row]:
    """Writes sweep.json and sweep.png, shows the table, and returns the rows, best first."""
    rows = rows_of(outcomes)
    if hosts.is_first():
        found = {"metric": metric, "rows": [row.to_json() for row in rows]}
        with new_file(directory / "sweep.json") as file:
            file.write_text(json.dumps(found, indent=1) + "\n")
        with new_file(directory / "sweep.png") as file:
            _draw(rows, metric, file)
        Console(stderr=True).print(_table(rows, metric))
    return rows


def _table(rows: Sequence[Row], metric: str) -> Table:
    names = list(rows[0].settings)
    table = Table(*names, f"{metric}, mean", "worst seed", "best seed", "steps")
    for row in rows[:SHOWN]:
        scores = [trial.score for trial in sorted(row.outcomes, key=lambda trial: trial.rank)]
        shown = (np.mean(scores), scores[0], scores[-1])
        cells = [*(f"{score:.4g}" for score in shown), str(row.steps)]
        table.add_row(*(str(row.settings[name]) for name in names), *cells)
    if len(rows) > SHOWN:
        table.caption = f"and {len(rows) - SHOWN} more, in sweep.json"
    return table


def _draw(rows: Sequence[Row], metric: str, file: Path) -> None:
    """A panel for each setting that was varied: every trial's score at its value."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    trials = [outcome for row in rows for outcome in row.outcomes if outcome.curve]
    names = sorted({name for trial in trials for name in trial.settings})
    figure, axes = plt.subplots(
        1, max(len(names), 1), figsize=(3.6 * max(len(names), 1), 3.4), squeeze=False, sharey=True
    )
    for axis, name in zip(axes[0], names, strict=False):
        values = sorted({trial.settings[name] for trial in trials}, key=_order)
        for i, value in enumerate(values):
            scores = [trial.score for trial in trials if trial.settings[name] == value]
            axis.plot([i] * len(scores), scores, "o", color="C0", alpha=0.5)
            axis.plot([i - 0.25, i + 0.25], [np.median(scores)] * 2, color="C3")
        axis.set_xticks(range(len(values)), [_short(value) for value in values], rotation=30)
        axis.set_xlabel(name)
    axes[0][0].set_ylabel(f"best {metric} of each trial; the line: median")
    figure.tight_layout()
    figure.savefig(file, dpi=110, format="png")
    plt.close(figure)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _order(value: Any) -> tuple[bool, Any]:
    return (True, value) if isinstance(value, int | float) else (False, str(value))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 18 else text[:17] + "…"
