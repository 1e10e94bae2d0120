"""Similarities as a picture, as JSON and as a table for a terminal."""

import json
import os
from pathlib import Path

import matplotlib
import numpy as np
import rich.console
import rich.table
import rich.text
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.interpretation.pictures import LABEL, PROMPT, STYLE, save_png
from prompt_tuning_jax.training.transfer.similarity import Group, Similarities

MOST_NUMBERS = 16  # prompts a side; with more the numbers in the cells cannot be read
MOST_COLUMNS = 8  # of the table in the terminal
_COLOURS = LinearSegmentedColormap.from_list("", [LABEL, "#ffffff", PROMPT])


def write_output(found: Similarities, directory: str | os.PathLike) -> Path:
    """Writes `similarity.json` and `similarity.png`, a map for each model; returns the picture."""
    directory = Path(directory)
    with new_file(directory / "similarity.json") as file:
        file.write_text(json.dumps(found.to_json(), ensure_ascii=False, indent=1) + "\n", "utf-8")
    with new_file(directory / "similarity.png") as file:
        save_png(draw(found), file)
    return directory / "similarity.png"


def draw(found: Similarities) -> Figure:
    """A heat map for each model, one below the other."""
    sides = [1.8 + 0.36 * len(group.names) for group in found.groups]
    with matplotlib.rc_context(STYLE):
        figure = Figure((max(sides) + 1.5, sum(sides)), layout="constrained")
        rows = figure.subplots(len(sides), 1, squeeze=False, height_ratios=sides)
        for (axes,), group in zip(rows, found.groups, strict=True):
            _map(figure, axes, group, found.measure)
    return figure


def _map(figure: Figure, axes: Axes, group: Group, measure: str) -> None:
    """The diagonal, which is 1 where prompts are pooled, is left out of the scale."""
    count = len(group.names)
    pairs = np.ma.masked_array(group.similarity, np.eye(count, dtype=bool))
    most = float(np.abs(pairs).max()) if pairs.count() else 1.0
    image = axes.imshow(pairs, _COLOURS, vmin=-most, vmax=most, interpolation="nearest")
    names = [name.replace("$", r"\$") for name in group.names]
    axes.set_xticks(range(count), names, rotation=90, fontsize=7)
    axes.set_yticks(range(count), names, fontsize=7)
    axes.set_title(f"{group.model or 'a model that is not named'}, cosine ({measure})")
    if count <= MOST_NUMBERS:
        for row, column in zip(*np.nonzero(~pairs.mask), strict=True):
            text = f"{pairs[row, column]:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=6)
    figure.colorbar(image, ax=axes, shrink=0.7).outline.set_visible(False)


def print_similarities(found: Similarities, console: rich.console.Console) -> None:
    """The ranking where something was asked for, else all against all or each one's nearest."""
    if found.ranking:
        console.print(_ranking(found))
    else:
        for group in found.groups:
            small = len(group.names) <= MOST_COLUMNS
            console.print(_all(group) if small else _nearest(group))
    for note in found.notes:
        console.print(rich.text.Text(note, style="yellow"))


def _ranking(found: Similarities) -> rich.table.Table:
    table = rich.table.Table(title=f"{found.measure} cosine with {', '.join(found.given)}")
    for name in ("prompt", "task"):
        table.add_column(name)
    table.add_column("similarity", justify="right")
    for one in found.ranking:
        table.add_row(_plain(one.name), _plain(one.task or ""), f"{one.similarity:.4f}")
    return table


def _all(group: Group) -> rich.table.Table:
    table = rich.table.Table("", title=_plain(group.model or "a model that is not named"))
    for name in group.names:
        table.add_column(_plain(name), justify="right")
    for name, row in zip(group.names, group.similarity, strict=True):
        table.add_row(_plain(name), *(f"{x:.2f}" for x in row))
    return table


def _nearest(group: Group) -> rich.table.Table:
    title = _plain(group.model or "a model that is not named")
    table = rich.table.Table("prompt", "nearest", "similarity", title=title)
    for i, name in enumerate(group.names):
        others = np.where(np.arange(len(group.names)) == i, -np.inf, group.similarity[i])
        j = int(others.argmax())
        table.add_row(_plain(name), _plain(group.names[j]), f"{others[j]:.4f}")
    return table


def _plain(text: str) -> rich.text.Text:
    """Brackets in a name are no markup."""
    return rich.text.Text(text)
