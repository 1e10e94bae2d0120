"""A comparison as a table, as JSON and as a picture."""

import dataclasses
import itertools
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
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
      curves: (step, score on validation) of each evaluation, one curve for each seed.
    """

    method: str
    scores: Sequence[float]
    trained: int = 0
    memory: int | None = None
    seconds: float | None = None
    stored: int = 0
    switching: str = ""
    chosen: str = ""
    curves: Sequence[Sequence[tuple[int, float]]] = ()


def show_row(row: Row) -> None:
    """A line as soon as its method is done."""
    if hosts.is_first():
        chosen = f" ({row.chosen})" if row.chosen else ""
        line = f"{row.method}: {_score(row)}{chosen}"
        Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


def write_report(
    directory: Path, task: str, metric: str, rows: Sequence[Row], settings: Mapping[str, Any]
) -> None:
    """Writes comparison.json and comparison.png, and shows the table.

    Args:
      settings: that are not as by default, for the record.
    """
    if not hosts.is_first():
        return
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    found = {
        "task": task,
        "metric": metric,
        "settings": {name: _plain(value) for name, value in settings.items()},
        "machine": machine,
        "jax": jax.__version__,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    with new_file(directory / "comparison.json") as file:
        file.write_text(json.dumps(found, indent=1) + "\n")
    with new_file(directory / "comparison.png") as file:
        _draw(task, metric, rows, file)
    Console(stderr=True).print(_table(task, metric, rows))


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


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def _draw(task: str, metric: str, rows: Sequence[Row], file: Path) -> None:
    """Learning curves, and scores over the numbers that train; what trains nothing is a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (curves, axis) = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    colors, styles = (f"C{i % 10}" for i in itertools.count()), itertools.cycle(("-", "--", ":"))
    for row in rows:
        mean = float(np.mean(row.scores))
        if not row.trained:
            style = {"color": "grey", "linestyle": next(styles), "linewidth": 1}
            curves.axhline(mean, **style)
            axis.axhline(mean, **style, label=row.method)
            continue
        color = next(colors)
        for curve in row.curves:
            curves.plot(*zip(*curve, strict=True), color=color, alpha=0.7)
        spread = [[mean - min(row.scores)], [max(row.scores) - mean]]
        how = {"fmt": "o", "capsize": 3, "label": row.method}
        axis.errorbar([row.trained], [mean], spread, color=color, **how)
    if any(row.trained for row in rows):
        axis.set_xscale("log")
    axis.set(xlabel="numbers that train", title="test, mean and range of seeds")
    curves.set(xlabel="step", ylabel=metric, title=f"{task}, validation, every seed")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    figure.savefig(file, dpi=110, format="png")
    plt.close(figure)
