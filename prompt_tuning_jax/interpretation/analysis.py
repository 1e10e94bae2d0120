"""Looks at a tuned prompt from the frozen model's vocabulary (paper section 7).

Pure functions of numpy arrays; `interpret` loads what they need, and shows what they find.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.interpretation import nearest
from prompt_tuning_jax.interpretation.clusters import Name, draw_map, find_clusters, tightness
from prompt_tuning_jax.interpretation.findings import (
    Change,
    Interpretation,
    Labels,
    Norms,
    Piece,
    Position,
    Start,
    readable,
)
from prompt_tuning_jax.interpretation.nearest import Nearest, Neighbours, Survey, Table
from prompt_tuning_jax.vocabularies import Vocabulary

RANDOM_VECTORS = 200  # how many stand for "no meaning at all"
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
BINS = 48


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """The prompt at one step of its training, and its scores then."""

    step: int
    values: Float[np.ndarray, "P D"]
    scores: Mapping[str, Any]


def analyse(
    values: Float[np.ndarray, "P D"],
    embeddings: Float[np.ndarray, "rows D"],
    vocabulary: Vocabulary,
    *,
    k: int = 5,
    labels: Sequence[str] = (),
    snapshots: Sequence[Snapshot] = (),
    facts: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    seed: int = 0,
) -> Interpretation:
    """Looks at a prompt from every side.

    Args:
      embeddings: the model's table; rows past the vocabulary, which no text reaches, are left
        out.
      labels: verbalizers.
      snapshots: of the prompt's run, in the order of steps; the first is the initialisation.
      facts, notes: to be passed on.
      seed: of the random vectors and pairs that the prompt is compared with.

    Raises:
      ValueError: k is not between 1 and the vocabulary's size; a label has no tokens.
    """
    table = embeddings[: vocabulary.size]
    if not 1 <= k <= len(table):
        raise ValueError(f"Neighbours must be 1 to {len(table)}, the vocabulary's size, not {k}.")
    label_ids = {label: _encode(vocabulary, label) for label in labels}
    labels, name = list(label_ids), functools.partial(_name, vocabulary)
    whole, values = nearest.survey(table), np.asarray(values, np.float32)

    def look(vectors: Float[np.ndarray, "vectors D"]) -> Neighbours:
        return nearest.find_neighbours(vectors, table, k, list(label_ids.values()))

    found, random = look(values), look(_random_vectors(whole, seed))
    past = [look(snapshot.values) for snapshot in snapshots]
    points, share = draw_map(values, table, found.cosine, label_ids, name)
    return Interpretation(
        prompt=dict(facts or {}),
        k=k,
        positions=_positions(values, table, found, whole, labels, vocabulary),
        labels=_labels(labels, found, random, k) if labels else None,
        norms=_norms(values, whole),
        similarity=nearest.cosines(values),
        clusters=find_clusters(values, table, found.cosine, random.cosine, name, seed),
        frequent=_frequent(found.cosine, name),
        map=points,
        map_share=share,
        drift=_drift(values, found, snapshots[0], past[0], labels, name) if past else None,
        changes=_changes(snapshots, past, k, name) if past else None,
        notes=list(notes),
    )


def _encode(vocabulary: Vocabulary, label: str) -> list[int]:
    tokens = vocabulary.encode(label)
    if not tokens:
        raise ValueError(f"Label {label!r} has no tokens in this vocabulary.")
    return tokens


def _name(vocabulary: Vocabulary, token: int) -> str:
    return readable(vocabulary.id_to_piece(int(token)))


def _random_vectors(whole: Survey, seed: int) -> Float[np.ndarray, "vectors D"]:
    """Vectors as the vocabulary's in each coordinate, but of no meaning."""
    rng = np.random.default_rng(seed)
    return rng.normal(whole.mean, whole.spread, (RANDOM_VECTORS, len(whole.mean)))


def _positions(
    values: np.ndarray,
    table: Table,
    found: Neighbours,
    whole: Survey,
    labels: list[str],
    vocabulary: Vocabulary,
) -> list[Position]:
    lengths = np.linalg.norm(values, axis=1)
    shorter = np.searchsorted(np.sort(whole.norms), lengths) / len(whole.norms)
    tight = tightness(table, found.cosine)
    return [
        Position(
            index=i,
            norm=float(lengths[i]),
            norm_percentile=float(100 * shorter[i]),
            cosine=_pieces(found.cosine, i, vocabulary),
            euclidean=_pieces(found.euclidean, i, vocabulary),
            tightness=None if tight is None else float(tight[i]),
            label_ranks=dict(zip(labels, found.label_ranks[i].tolist(), strict=True)),
        )
        for i in range(len(values))
    ]


def _pieces(found: Nearest, row: int, vocabulary: Vocabulary) -> list[Piece]:
    pairs = zip(found.ids[row].tolist(), found.values[row].tolist(), strict=True)
    return [Piece(i, p := vocabulary.id_to_piece(i), readable(p), value) for i, value in pairs]


def _labels(words: list[str], found: Neighbours, random: Neighbours, k: int) -> Labels:
    ranks = dict(zip(words, found.label_ranks.T, strict=True))
    return Labels(
        words=words,
        rate=_label_rate(found, k),
        random_rate=_label_rate(random, k),
        positions={word: np.flatnonzero(rank <= k).tolist() for word, rank in ranks.items()},
        best={word: (int(rank.min()), int(rank.argmin())) for word, rank in ranks.items()},
    )


def _label_rate(found: Neighbours, k: int) -> float:
    """The share of vectors with a label among their k nearest pieces."""
    return float((found.label_ranks <= k).any(axis=1).mean())


def _norms(values: np.ndarray, whole: Survey) -> Norms:
    lengths = np.linalg.norm(values, axis=1)
    both = np.concatenate([lengths, whole.norms])
    counts, edges = np.histogram(whole.norms, BINS, (both.min(), both.max()))
    levels = np.percentile(whole.norms, PERCENTILES).tolist()
    return Norms(
        mean=float(lengths.mean()),
        vocabulary_mean=float(whole.norms.mean()),
        vocabulary_percentiles=dict(zip(map(str, PERCENTILES), levels, strict=True)),
        edges=edges.tolist(),
        counts=counts.tolist(),
    )


def _frequent(found: Nearest, name: Name) -> list[tuple[str, int]]:
    counts = collections.Counter(found.ids.ravel().tolist())
    return [(name(token), count) for token, count in counts.most_common() if count > 1]


def _drift(
    values: np.ndarray,
    found: Neighbours,
    start: Snapshot,
    began: Neighbours,
    labels: list[str],
    name: Name,
) -> list[Start]:
    distances = np.linalg.norm(values - start.values, axis=1)
    lengths = np.linalg.norm(start.values, axis=1)
    similar = (nearest.unit(values) * nearest.unit(start.values)).sum(axis=1)
    then, now = began.cosine.ids[:, 0], found.cosine.ids[:, 0]
    ranks = [dict(zip(labels, row.tolist(), strict=True)) for row in found.label_ranks]
    initial = [_first_label(row, labels) for row in began.label_ranks]
    return [
        Start(
            cosine=float(similar[i]),
            distance=float(distances[i]),
            relative=float(distances[i] / (lengths[i] or 1)),
            piece=name(then[i]),
            kept=bool(then[i] == now[i]),
            label=initial[i],
            label_rank=ranks[i].get(initial[i]),
        )
        for i in range(len(values))
    ]


def _first_label(ranks: np.ndarray, labels: list[str]) -> str | None:
    """The label that no piece is nearer than, as where a row was initialised with it; or None."""
    return next((label for label, rank in zip(labels, ranks, strict=True) if rank == 1), None)


def _changes(
    snapshots: Sequence[Snapshot], past: Sequence[Neighbours], k: int, name: Name
) -> list[Change]:
    start, began = snapshots[0], past[0].cosine.ids[:, 0]
    labelled = past[0].label_ranks.shape[1] > 0
    changes, before = [], None
    for snapshot, found in zip(snapshots, past, strict=True):
        first = found.cosine.ids[:, 0]
        changes.append(
            Change(
                step=snapshot.step,
                scores=dict(snapshot.scores),
                norm=float(np.linalg.norm(snapshot.values, axis=1).mean()),
                moved=_mean_distance(snapshot, before) if before else None,
                from_start=_mean_distance(snapshot, start),
                kept_rate=float((first == began).mean()),
                label_rate=_label_rate(found, k) if labelled else None,
                nearest=[name(token) for token in first],
            )
        )
        before = snapshot
    return changes


def _mean_distance(one: Snapshot, other: Snapshot) -> float:
    """The mean distance between the positions of two snapshots."""
    return float(np.linalg.norm(one.values - other.values, axis=1).mean())
