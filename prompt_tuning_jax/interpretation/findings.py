"""What is found about a prompt, as plain records; pictures, tables and pages are made from them."""

import dataclasses
import re
from typing import Any

import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.json_values import plain

_MARKED = re.compile(r"<.+>")


def readable(piece: str) -> str:
    """A piece for people: `▁film` begins a word, "film"; `s` continues one, "…s"."""
    if piece.startswith("▁"):
        return piece[1:] or "␣"
    return piece if _MARKED.fullmatch(piece) else f"…{piece}"


@dataclasses.dataclass(frozen=True)
class Piece:
    """A neighbour: `text` is the piece for people; `value` its cosine or its distance."""

    id: int
    piece: str
    text: str
    value: float


@dataclasses.dataclass(frozen=True)
class Position:
    """A prompt position.

    Attributes:
      norm, norm_percentile: its length, and the percentage of pieces that are shorter.
      cosine, euclidean: the k nearest pieces, nearest first.
      tightness: mean cosine among those by cosine; None where k is 1.
      label_ranks: label -> its rank among all pieces by cosine, from 1.
    """

    index: int
    norm: float
    norm_percentile: float
    cosine: list[Piece]
    euclidean: list[Piece]
    tightness: float | None
    label_ranks: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Labels:
    """How often a class label is among the k nearest pieces, by cosine.

    Attributes:
      words: the labels.
      rate, random_rate: share of prompt positions, and of random vectors, with a label among them.
      positions: label -> the positions with it among them.
      best: label -> (its best rank, the position of that rank).
    """

    words: list[str]
    rate: float
    random_rate: float
    positions: dict[str, list[int]]
    best: dict[str, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Norms:
    """Lengths of the prompt's rows beside those of the vocabulary's, with their histogram."""

    mean: float
    vocabulary_mean: float
    vocabulary_percentiles: dict[str, float]
    edges: list[float]
    counts: list[int]


@dataclasses.dataclass(frozen=True)
class Group:
    """Positions that are alike and their nearest pieces; or alike pieces and the positions near."""

    positions: list[int]
    pieces: list[str]


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Groups of two or more whose mean cosine is at least `threshold`, the largest first.

    `tightness` is the mean cosine among a position's neighbours, `random_tightness` that among a
    random vector's; the paper finds close clusters at the former alone.
    """

    threshold: float
    positions: list[Group]
    pieces: list[Group]
    tightness: float | None
    random_tightness: float | None


@dataclasses.dataclass(frozen=True)
class Start:
    """A position's way from its initialisation to the prompt.

    Attributes:
      cosine, distance: to its initialisation; `relative` is the distance over the norm then.
      piece: the nearest piece then, by cosine.
      kept: whether that is the nearest still.
      label, label_rank: the label that no piece was nearer than then, if any, and its rank now.
    """

    cosine: float
    distance: float
    relative: float
    piece: str
    kept: bool
    label: str | None
    label_rank: int | None


@dataclasses.dataclass(frozen=True)
class Change:
    """The prompt at a step of its run; numbers are means over positions, rates shares of them.

    Attributes:
      moved: distance from the snapshot before; None for the first.
      from_start: distance from the first.
      kept_rate: whose nearest piece is that of the first.
      label_rate: with a label among the k nearest; None without labels.
      nearest: the nearest piece of each position, by cosine.
    """

    step: int
    scores: dict[str, Any]
    norm: float
    moved: float | None
    from_start: float
    kept_rate: float
    label_rate: float | None
    nearest: list[str]


@dataclasses.dataclass(frozen=True)
class Point:
    """A place on the map: of a "prompt" position (`text` is its number), a "piece", a "label"."""

    kind: str
    text: str
    x: float
    y: float


@dataclasses.dataclass(frozen=True, eq=False)
class Interpretation:
    """All that is found about a prompt; `to_json` gives it as JSON values.

    Attributes:
      prompt: its file's facts, such as path, model, task, step, scores.
      k: neighbours for each position.
      labels: None where no labels are known.
      similarity: [P, P] cosines between positions.
      frequent: (piece, of how many positions a neighbour), more than one, the most frequent first.
      map, map_share: principal components of directions, and the share of variance they show.
      drift, changes: for each position, and each snapshot; None without the run's snapshots.
      notes: what is missing, and how to get it.
    """

    prompt: dict[str, Any]
    k: int
    positions: list[Position]
    labels: Labels | None
    norms: Norms
    similarity: Float[np.ndarray, "P P"]
    clusters: Clusters
    frequent: list[tuple[str, int]]
    map: list[Point]
    map_share: float
    drift: list[Start] | None
    changes: list[Change] | None
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        # Four digits are what a picture shows of the cosines of all pairs.
        rounded = np.round(self.similarity.astype(np.float64), 4)
        return plain(dataclasses.asdict(self) | {"similarity": rounded})
