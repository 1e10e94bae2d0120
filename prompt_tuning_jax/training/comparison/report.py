"""A comparison as a table, as JSON and as a picture."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.devices import hosts


@dataclasses.dataclass(frozen=True)
class Row:
    """A method, and what came of it.

    Attributes:
      scores: on test, one for each seed.
      trained: how many numbers train.
      memory: bytes on each device while a step runs.
      seconds: of a run in this call, its evaluations included.
      stored: bytes that are kept for the task.
      switching: what it takes to answer for another task next.
      chosen: by validation.
    """

    method: str
    scores: Sequence[float]
    trained: int = 0
    memory: int | None = None
    seconds: float | None = None
    stored: int = 0
    switching: str = ""
    chosen: str = ""


def show_row(row: Row) -> None:
    """A line as soon as its method is done."""
    if hosts.is_first():
        chosen = f" ({row.chosen})" if row.chosen else ""
        line = f"{row.method}: {_score(row)}{chosen}"
        Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


def write_report(directory: Path, task: str, metric: str, rows: Sequence[Row]) -> None:
    """Writes comparison.json and comparison.png, and shows the table."""
    if not hosts.is_first():
        return
    with new_file(directory / "comparison.json") as file:
        file.write_text(json.dumps(as_json(task, metric, rows), indent=1) + "\n")
    with new_file(directory / "comparison.png") as file:
        _draw(task, metric, rows, file)
    Console(stderr=True).print(_table(task, metric, rows))


def as_json(task: str, metric: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {"task": task, "metric": metric, "rows": [dataclasses.asdict(row) for row in rows]}


def _table(task: str, metric: str, rows: Sequence[Row]) -> Table:
    table = Table(f"{task}", f"test {metric}", "trained", "memory", "a run", "kept", "to switch")
    for row in rows:
        table.add_row(
            row.method,
            _score(row),
            f"{row.trained:,}" if row.trained else "-",
            "-" if row.memory is None else _bytes(row.memory),
            "-" if row.seconds is None else f"{row.seconds:.0f} s",
            _bytes(row.stored) if row.stored else "-",
            row.switching or "-",
        )
    return table


def _score(row: Row) -> str:
    """The mean, and the range over seeds."""
    low, high = min(row.scores), max(row.scores)
    spread = f" ({low:.1f}-{high:.1f})" if len(row.scores) > 1 else ""
    return f"{np.mean(row.scores):.1f}{spread}"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def _draw(task: str, metric: str, rows: Sequence[Row], file: Path) -> None:
    """Scores over the numbers that train; methods that train nothing are lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 4))
    for number, row in enumerate(rows):
        mean, color = float(np.mean(row.scores)), f"C{number % 10}"
        if row.trained:
            spread = [[mean - min(row.scores)], [max(row.scores) - mean]]
            axis.errorbar([row.trained], [mean], spread, fmt="o", color=color, capsize=3)
            axis.annotate(row.method, (row.trained, mean), (6, 4), textcoords="offset points")
        else:
            axis.axhline(mean, color=color, linestyle="--", linewidth=1, label=row.method)
    if any(row.trained for row in rows):
        axis.set_xscale("log")
    axis.set(xlabel="numbers that train", ylabel=f"test {metric}, mean and range", title=task)
    if any(not row.trained for row in rows):
        axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=110, format="png")
    plt.close(figure)
