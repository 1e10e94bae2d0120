"""Which vocabulary pieces lie nearest to a vector, by cosine and by Euclidean distance.

The embedding table is read block by block in float32, so that 250,000 pieces of width 4096 need
little memory beyond the table itself; the few candidates found are then measured in float64.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BLOCK = 8192  # pieces at a time
CHUNK = 256  # vectors at a time
SPARE = 16  # candidates beyond those asked for: float32's rounding may swap near-equal ones
SAMPLE = 1500  # pieces whose pairs stand for all pairs

Table = Float[np.ndarray, "V D"]


class Nearest(NamedTuple):
    """The k nearest pieces of each vector, nearest first, and their cosines or distances."""

    ids: Int[np.ndarray, "vectors k"]
    values: Float[np.ndarray, "vectors k"]


class Neighbours(NamedTuple):
    """What `find_neighbours` finds; `label_ranks` counts from 1."""

    cosine: Nearest
    euclidean: Nearest
    label_ranks: Int[np.ndarray, "vectors labels"]


class Survey(NamedTuple):
    """Every piece's norm, and the mean and standard deviation of each coordinate."""

    norms: Float[np.ndarray, " V"]
    mean: Float[np.ndarray, " D"]
    spread: Float[np.ndarray, " D"]


def find_neighbours(
    vectors: Float[np.ndarray, "vectors D"],
    table: Table,
    k: int,
    labels: Sequence[Sequence[int]] = (),
) -> Neighbours:
    """The nearest pieces of each vector, and at which rank each label stands.

    Args:
      table: one row for each piece, any floating-point type.
      k: how many; at most the number of pieces. Of equally near pieces the lower id comes first.
      labels: the ids of each label's pieces. As in class-label initialisation (paper section
        3.2) a label is the mean of its pieces' embeddings; its rank by cosine is 1 + how many
        other pieces are as near. A label of one piece has that piece's rank.
    """
    vectors = np.asarray(vectors, np.float32)
    chunks = [vectors[i : i + CHUNK] for i in range(0, len(vectors), CHUNK)]
    cosine, euclidean, ranks = zip(*(_search(c, table, k, labels) for c in chunks), strict=True)
    return Neighbours(
        Nearest(*map(np.concatenate, zip(*cosine, strict=True))),
        Nearest(*map(np.concatenate, zip(*euclidean, strict=True))),
        np.concatenate(ranks),
    )


def survey(table: Table) -> Survey:
    """Norms and moments of the whole table."""
    norms, total, squares = [], 0.0, 0.0
    for _, block in _blocks(table):
        norms.append(_norms(block))
        total = total + block.sum(axis=0, dtype=np.float64)
        squares = squares + np.square(block).sum(axis=0, dtype=np.float64)
    mean = total / len(table)
    variance = np.maximum(squares / len(table) - mean**2, 0.0)
    return Survey(np.concatenate(norms), mean, np.sqrt(variance))


def label_vectors(table: Table, labels: Sequence[Sequence[int]]) -> Float[np.ndarray, "labels D"]:
    """The mean embedding of each label's pieces (paper section 3.2)."""
    rows = [table[np.asarray(ids)].astype(np.float32).mean(axis=0) for ids in labels]
    return np.stack(rows) if rows else np.zeros((0, table.shape[1]), np.float32)


def unit(vectors: Float[np.ndarray, "*n D"]) -> Float[np.ndarray, "*n D"]:
    """Vectors scaled to length 1; those of length 0 stay."""
    return vectors / _divisors(_norms(vectors))[..., None]


def cosines(
    vectors: Float[np.ndarray, "*n vectors D"],
) -> Float[np.ndarray, "*n vectors vectors"]:
    """The cosine of each pair of vectors."""
    directions = unit(vectors)
    return np.clip(directions @ np.swapaxes(directions, -1, -2), -1, 1)


def alike_from(table: Table, seed: int = 0) -> float:
    """The cosine from which two vectors count as alike, at most 0.95.

    That is four standard deviations above the mean cosine of random pairs of pieces.
    """
    rng = np.random.default_rng(seed)
    ids = rng.choice(len(table), min(SAMPLE, len(table)), replace=False)
    pairs = cosines(table[ids].astype(np.float32))[np.triu_indices(len(ids), 1)]
    return float(min(pairs.mean() + 4 * pairs.std(), 0.95))


class _Best:
    """The ids of the highest scores so far, [vectors, count]."""

    def __init__(self, vectors: int, count: int):
        self.ids = np.zeros((vectors, 0), np.int64)
        self._scores = np.zeros((vectors, 0), np.float32)
        self._count = count

    def offer(self, ids: Int[np.ndarray, " block"], scores: Float[np.ndarray, "vectors block"]):
        if scores.shape[1] > self._count:
            best = np.argpartition(scores, -self._count, axis=1)[:, -self._count :]
            ids, scores = ids[best], np.take_along_axis(scores, best, axis=1)
        else:
            ids = np.broadcast_to(ids, scores.shape)
        self.ids = np.concatenate([self.ids, ids], axis=1)
        self._scores = np.concatenate([self._scores, scores], axis=1)
        if self.ids.shape[1] > self._count:
            best = np.argpartition(self._scores, -self._count, axis=1)[:, -self._count :]
            self.ids = np.take_along_axis(self.ids, best, axis=1)
            self._scores = np.take_along_axis(self._scores, best, axis=1)


def _search(
    vectors: np.ndarray, table: Table, k: int, labels: Sequence[Sequence[int]]
) -> tuple[Nearest, Nearest, np.ndarray]:
    """`find_neighbours` of one chunk of vectors."""
    limits = unit(vectors) @ unit(label_vectors(table, labels)).T
    lengths = _divisors(_norms(vectors))
    nearer = np.zeros(limits.shape, np.int64)
    aligned, close = (_Best(len(vectors), k + SPARE) for _ in range(2))
    for ids, block in _blocks(table):
        norms = _norms(block)
        dots = vectors @ block.T
        close.offer(ids, 2 * dots - np.square(norms)[None, :])  # |v|² - this is the distance²
        similar = dots / lengths[:, None] / _divisors(norms)[None, :]
        aligned.offer(ids, similar)
        for label, own in enumerate(labels):
            others = ~np.isin(ids, own)
            nearer[:, label] += ((similar >= limits[:, label, None]) & others[None, :]).sum(axis=1)
    cosine = _measured(vectors, table, aligned.ids, k, _exact_cosines, descending=True)
    euclidean = _measured(vectors, table, close.ids, k, _exact_distances, descending=False)
    return cosine, euclidean, nearer + 1


def _measured(vectors, table, candidates, k, measure, descending) -> Nearest:
    """The k best of each vector's candidates by `measure`, in float64."""
    ids, values = [], []
    for vector, row in zip(vectors.astype(np.float64), candidates, strict=True):
        measured = measure(vector, table[row].astype(np.float64))
        order = np.lexsort((row, -measured if descending else measured))[:k]
        ids.append(row[order])
        values.append(measured[order])
    return Nearest(np.stack(ids), np.stack(values))


def _exact_cosines(vector: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.clip(unit(rows) @ unit(vector), -1, 1)


def _exact_distances(vector: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return _norms(rows - vector[None, :])


def _norms(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("...d,...d->...", vectors, vectors))


def _divisors(norms: np.ndarray) -> np.ndarray:
    return np.where(norms == 0, 1, norms)


def _blocks(table: Table) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids, their rows in float32), block by block."""
    for start in range(0, len(table), BLOCK):
        block = np.asarray(table[start : start + BLOCK], np.float32)
        yield np.arange(start, start + len(block)), block
