"""What is alike: positions among themselves, neighbours among themselves; and a map of both."""

import collections
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.interpretation import nearest
from prompt_tuning_jax.interpretation.findings import Clusters, Group, Point
from prompt_tuning_jax.interpretation.nearest import Nearest, Table

Name = Callable[[int], str]  # a piece's id -> its text for people


def find_clusters(
    values: Float[np.ndarray, "P D"],
    table: Table,
    found: Nearest,
    random: Nearest,
    name: Name,
    seed: int,
) -> Clusters:
    """Clusters of positions and of their neighbours by cosine, and how tight the latter are.

    Args:
      found, random: the neighbours of the prompt, and of random vectors.
    """
    threshold = nearest.alike_from(table, seed)
    tight, loose = tightness(table, found), tightness(table, random)
    return Clusters(
        threshold=threshold,
        positions=_position_groups(values, threshold, found, name),
        pieces=_piece_groups(table, threshold, found, name),
        tightness=None if tight is None else float(tight.mean()),
        random_tightness=None if loose is None else float(loose.mean()),
    )


def tightness(table: Table, found: Nearest) -> Float[np.ndarray, " vectors"] | None:
    """The mean cosine among the neighbours of each vector; None where each has one."""
    k = found.ids.shape[1]
    if k == 1:
        return None
    pairs = np.triu_indices(k, 1)
    rows = (table[ids].astype(np.float64) for ids in found.ids)
    return np.array([nearest.cosines(each)[pairs].mean() for each in rows])


def groups(vectors: Float[np.ndarray, "n D"], threshold: float) -> list[list[int]]:
    """Rows that are alike: average-linkage clusters of mean cosine `threshold` or more.

    The largest comes first; rows that are like no other are left out.
    """
    if len(vectors) < 2:
        return []
    from sklearn.cluster import AgglomerativeClustering  # slow to import

    clusters = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - threshold
    ).fit_predict(1 - nearest.cosines(vectors))
    members = collections.defaultdict(list)
    for row, cluster in enumerate(clusters.tolist()):
        members[cluster].append(row)
    alike = [rows for rows in members.values() if len(rows) > 1]
    return sorted(alike, key=lambda rows: (-len(rows), rows))


def draw_map(
    values: Float[np.ndarray, "P D"],
    table: Table,
    found: Nearest,
    labels: Mapping[str, list[int]],
    name: Name,
) -> tuple[list[Point], float]:
    """Directions of the prompt, its neighbours and the labels, on two principal components.

    Returns:
      The points, nearest pieces before second nearest and so on; the share of variance shown.
    """
    ids = list(dict.fromkeys(found.ids.ravel(order="F").tolist()))
    words = nearest.label_vectors(table, list(labels.values()))
    vectors = np.concatenate([values, table[ids].astype(np.float32), words])
    named = [("prompt", str(i)) for i in range(len(values))]
    named += [("piece", name(token)) for token in ids]
    named += [("label", label) for label in labels]
    directions = nearest.unit(vectors.astype(np.float64))
    left, scales, _ = np.linalg.svd(directions - directions.mean(axis=0), full_matrices=False)
    places = (left[:, :2] * scales[:2]).tolist()
    shown, total = np.square(scales[:2]).sum(), np.square(scales).sum()
    points = [Point(*who, *place) for who, place in zip(named, places, strict=True)]
    return points, float(shown / total) if total else 1.0


def _position_groups(
    values: np.ndarray, threshold: float, found: Nearest, name: Name
) -> list[Group]:
    first = found.ids[:, 0]
    return [
        Group(rows, list(dict.fromkeys(name(first[row]) for row in rows)))
        for rows in groups(values, threshold)
    ]


def _piece_groups(table: Table, threshold: float, found: Nearest, name: Name) -> list[Group]:
    """Groups of neighbours; those that are near to the most positions come first."""
    ids = np.unique(found.ids)
    alike = [ids[rows] for rows in groups(table[ids].astype(np.float32), threshold)]
    reached = [np.flatnonzero(np.isin(found.ids, group).any(axis=1)).tolist() for group in alike]
    named = [[name(token) for token in group] for group in alike]
    return sorted(map(Group, reached, named), key=lambda group: -len(group.positions))
