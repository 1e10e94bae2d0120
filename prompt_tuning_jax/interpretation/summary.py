"""What an interpretation says, in a line for each question; terminal and page both show it."""

from prompt_tuning_jax.interpretation.findings import Group, Interpretation

MOST = 8  # labels, pieces or groups that a line names


def summary_lines(found: Interpretation) -> list[tuple[str, str]]:
    """(title, sentence) pairs."""
    return [
        *_labels(found),
        ("Norms", _norms(found)),
        ("Neighbours", _neighbours(found)),
        ("Alike positions", _positions(found)),
        ("Alike neighbours", _groups(found.clusters.pieces)),
        *_drift(found),
        *_changes(found),
    ]


def _labels(found: Interpretation) -> list[tuple[str, str]]:
    labels = found.labels
    if labels is None:
        return [("Class labels", "none known; name them with --verbalizers")]
    ranks = ", ".join(
        f"{word} best at rank {rank} (position {position})"
        for word, (rank, position) in list(labels.best.items())[:MOST]
    )
    return [
        (
            "Class labels",
            f"among the {found.k} nearest of {labels.rate:.0%} of the positions, and of "
            f"{labels.random_rate:.0%} of random vectors; {ranks}",
        )
    ]


def _norms(found: Interpretation) -> str:
    norms = found.norms
    levels = norms.vocabulary_percentiles
    return (
        f"mean {norms.mean:.1f}, the vocabulary's {norms.vocabulary_mean:.1f} "
        f"(90% of its pieces lie between {levels['5']:.1f} and {levels['95']:.1f})"
    )


def _neighbours(found: Interpretation) -> str:
    nearest = {position.cosine[0].id for position in found.positions}
    text = f"{len(nearest)} different nearest pieces for {len(found.positions)} positions"
    if found.clusters.tightness is not None:
        text += (
            f"; mean cosine among a position's neighbours {found.clusters.tightness:.2f}, "
            f"among a random vector's {found.clusters.random_tightness:.2f}"
        )
    often = ", ".join(f"{piece} ({count})" for piece, count in found.frequent[:MOST])
    return f"{text}; most often {often}" if often else text


def _positions(found: Interpretation) -> str:
    clusters = found.clusters
    named = [_numbers(group.positions) for group in clusters.positions[:MOST]]
    return f"{_several(clusters.positions, named)} (mean cosine {clusters.threshold:.2f} or more)"


def _groups(groups: list[Group]) -> str:
    return _several(groups, ["{" + ", ".join(group.pieces) + "}" for group in groups[:MOST]])


def _several(groups: list[Group], named: list[str]) -> str:
    if not groups:
        return "no group"
    more = f" and {len(groups) - MOST} more groups" if len(groups) > MOST else ""
    return f"{'; '.join(named)}{more}"


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _drift(found: Interpretation) -> list[tuple[str, str]]:
    if not found.drift:
        return []
    count = len(found.drift)
    cosine = sum(start.cosine for start in found.drift) / count
    relative = sum(start.relative for start in found.drift) / count
    kept = sum(start.kept for start in found.drift)
    text = (
        f"mean cosine to the initialisation {cosine:.2f}, moved by {relative:.1f} times its norm; "
        f"{kept} of {count} positions keep their nearest piece"
    )
    labels = [start for start in found.drift if start.label is not None]
    if labels:
        stay = sum(start.label_rank <= found.k for start in labels)
        text += f"; {stay} of {len(labels)} that began as a label have it among the {found.k} still"
    return [("Drift", text)]


def _changes(found: Interpretation) -> list[tuple[str, str]]:
    if not found.changes:
        return []
    first, last = found.changes[0], found.changes[-1]
    text = f"{len(found.changes)} steps kept, {first.step} to {last.step}: norm {first.norm:.1f} "
    text += f"to {last.norm:.1f}"
    if first.label_rate is not None:
        text += f", positions near a label {first.label_rate:.0%} to {last.label_rate:.0%}"
    return [("Training", text)]
