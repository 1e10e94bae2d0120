"""An interpretation as pictures, each drawn once: as a PNG, and as SVG for the page.

The page is light or dark as its reader's screen is, so in its SVG every colour is a CSS variable.
"""

import io
import re
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from prompt_tuning_jax.interpretation.findings import Interpretation, Point

# Colour in a PNG -> the page's variable.
COLOURS = {
    "#1f2933": "--ink",
    "#7b8794": "--faint",
    "#dde3ea": "--line",
    "#2563a8": "--prompt",
    "#b4540a": "--label",
}
INK, FAINT, LINE, PROMPT, LABEL = COLOURS
MOST_NAMES = 40  # of pieces on the map; more would cover each other
STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be selected, and any script is shown
    "savefig.dpi": 160,
}
# Both ends opaque, nothing in the middle: so it stands on white and on black.
_DIVERGING = LinearSegmentedColormap.from_list(
    "", [(0, LABEL), (0.5, f"{LABEL}00"), (0.5, f"{PROMPT}00"), (1, PROMPT)]
)


def draw(found: Interpretation) -> dict[str, Figure]:
    """Name -> picture; "changes" only where the run kept more than one prompt."""
    with matplotlib.rc_context(STYLE):
        pictures = {"norms": _norms(found), "similarity": _similarity(found), "map": _map(found)}
        if found.changes and len(found.changes) > 1:
            pictures["changes"] = _changes(found)
    return pictures


def save_png(picture: Figure, path: Path) -> None:
    with matplotlib.rc_context(STYLE):
        picture.savefig(path, format="png")


def to_svg(name: str, picture: Figure) -> str:
    """An `<svg>` element to stand in a page: no prologue, no references, the page's colours."""
    file = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):  # ids differ between pictures
        picture.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:xlink)?|version|width|height)="[^"]*"', "", text, count=5)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg", f'<svg role="img" class="{name}"', 1)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure((width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _norms(found: Interpretation) -> Figure:
    """The vocabulary's histogram, and a mark for each position of the prompt."""
    figure, (axes,) = _figure(7, 2.4)
    norms = found.norms
    axes.stairs(norms.counts, norms.edges, fill=True, color=FAINT, alpha=0.5, label="vocabulary")
    lengths = [position.norm for position in found.positions]
    high = max(norms.counts)
    axes.vlines(lengths, -0.14 * high, -0.03 * high, color=PROMPT, lw=1, label="prompt positions")
    axes.axvline(norms.mean, color=PROMPT, lw=1, ls="--", label="prompt, mean")
    axes.set(xlabel="norm", ylabel="pieces")
    axes.set_ylim(bottom=-0.17 * high)
    axes.legend(loc="upper right")
    return figure


def _similarity(found: Interpretation) -> Figure:
    """The cosines of pairs; the diagonal, which is always 1, is left out of the scale."""
    figure, (axes,) = _figure(4.6, 4)
    pairs = np.ma.masked_array(found.similarity, np.eye(len(found.similarity), dtype=bool))
    most = np.abs(pairs).max() if pairs.count() else 1.0
    image = axes.imshow(pairs, _DIVERGING, vmin=-most, vmax=most, interpolation="nearest")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set(xlabel="position", ylabel="position")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="cosine")
    bar.outline.set_visible(False)
    return figure


def _map(found: Interpretation) -> Figure:
    figure, (axes,) = _figure(7, 5)
    kinds = {"piece": (FAINT, "."), "prompt": (PROMPT, "o"), "label": (LABEL, "D")}
    for kind, (colour, marker) in kinds.items():
        points = [point for point in found.map if point.kind == kind]
        if points:
            xs, ys = [p.x for p in points], [p.y for p in points]
            axes.scatter(xs, ys, 14, colour, marker, alpha=0.8, linewidths=0, label=kind)
        for point in _named(found, points):
            _write(axes, point, colour)
    axes.set(xticks=[], yticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title(f"two directions, {found.map_share:.0%} of the variance", color=FAINT)
    axes.legend(loc="best")
    return figure


def _named(found: Interpretation, points: list[Point]) -> list[Point]:
    """Those with a name: of pieces, only the nearest of each position, and no label twice."""
    if not points or points[0].kind != "piece":
        return points
    names = {position.cosine[0].text for position in found.positions}
    names -= set(found.labels.words if found.labels else ())
    return [point for point in points if point.text in names][:MOST_NAMES]


def _write(axes: Axes, point: Point, colour: str) -> None:
    """A point's name beside it; a piece such as "$" is no formula."""
    axes.annotate(
        point.text,
        (point.x, point.y),
        xytext=(3, 2),
        textcoords="offset points",
        fontsize=7,
        color=colour,
        parse_math=False,
    )


def _changes(found: Interpretation) -> Figure:
    """Norm; distance from the start and between snapshots; shares of positions."""
    figure, (norm, distance, share) = _figure(9, 2.6, 3)
    steps = [change.step for change in found.changes]

    def line(axes: Axes, name: str, label: str | None = None, **style: str) -> None:
        values = [getattr(change, name) for change in found.changes]
        values = np.array([np.nan if value is None else value for value in values], float)
        axes.plot(steps, values, marker=".", lw=1.2, label=label, **style)

    line(norm, "norm", color=PROMPT)
    norm.axhline(found.norms.vocabulary_mean, color=FAINT, ls="--", lw=1, label="vocabulary")
    norm.set_title("mean norm")
    line(distance, "from_start", "from the start", color=PROMPT)
    line(distance, "moved", "since the step before", color=LABEL)
    distance.set_title("mean distance moved")
    line(share, "kept_rate", "nearest piece is still the first", color=PROMPT)
    if found.labels:
        line(share, "label_rate", f"a label among the {found.k} nearest", color=LABEL)
    share.set_title("share of positions")
    share.set_ylim(-0.03, 1.03)
    share.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (norm, distance, share):
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend(fontsize=7)
    return figure
