"""An interpretation as one HTML page that needs no other file, beside its pictures and its JSON."""

import html
import itertools
import json
import os
import string
from collections.abc import Iterable, Sequence
from pathlib import Path

from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.interpretation import pictures
from prompt_tuning_jax.interpretation.findings import Group, Interpretation, Piece, Position
from prompt_tuning_jax.interpretation.summary import summary_lines

TEMPLATE = Path(__file__).with_name("page.html")
MOST_GROUPS = 20


def write_output(found: Interpretation, directory: str | os.PathLike) -> Path:
    """Writes `interpretation.json`, the pictures as PNG, and `index.html`, whose path it returns.

    Each file is replaced whole.
    """
    directory = Path(directory)
    drawn = pictures.draw(found)
    with new_file(directory / "interpretation.json") as file:
        file.write_text(json.dumps(found.to_json(), ensure_ascii=False, indent=1) + "\n", "utf-8")
    for name, picture in drawn.items():
        with new_file(directory / f"{name}.png") as file:
            pictures.save_png(picture, file)
    with new_file(directory / "index.html") as file:
        svgs = {name: pictures.to_svg(name, picture) for name, picture in drawn.items()}
        file.write_text(to_html(found, svgs), "utf-8")
    return directory / "index.html"


def to_html(found: Interpretation, svgs: dict[str, str]) -> str:
    """The page, with the pictures in it."""
    template = string.Template(TEMPLATE.read_text("utf-8"))
    missing = "<p>Needs the run that made the prompt: name its directory with --model_dir.</p>"
    return template.substitute(
        title=_escape(_title(found)),
        facts=_escape(_facts(found)),
        summary="\n".join(
            f"<dt>{_escape(name)}</dt><dd>{_escape(text)}</dd>"
            for name, text in summary_lines(found)
        ),
        notes="\n".join(f'<p class="note">{_escape(note)}</p>' for note in found.notes),
        k=found.k,
        threshold=f"{found.clusters.threshold:.2f}",
        neighbours=_neighbours(found),
        labels=_labels(found)
        if found.labels
        else "<p>None known: name them with --verbalizers.</p>",
        norms=svgs["norms"],
        similarity=svgs["similarity"],
        map=svgs["map"],
        position_groups=_groups(found.clusters.positions),
        piece_groups=_groups(found.clusters.pieces),
        tightness=_tightness(found),
        drift=_drift(found) if found.drift else missing,
        changes=_changes(found, svgs) if found.changes else missing,
    )


def _escape(text: object) -> str:
    return html.escape(str(text))


def _title(found: Interpretation) -> str:
    return str(found.prompt.get("task") or found.prompt.get("path") or "A prompt")


def _facts(found: Interpretation) -> str:
    facts = found.prompt
    parts = [f"{len(found.positions)} positions"]
    parts += [f"{name} {facts[name]}" for name in ("model", "step", "layout") if name in facts]
    for name, score in facts.get("scores", {}).items():
        if isinstance(score, int | float) and not name.startswith(("prompt_", "train_")):
            parts.append(f"{name} {score:.4g}")
    return " · ".join([*parts, str(facts.get("path", ""))]).removesuffix(" · ")


def _table(heads: Sequence[str], rows: Iterable[str], css: str = "") -> str:
    head = "".join(heads)
    return (
        f'<table class="{css}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _head(text: str, css: str = "", span: int = 1) -> str:
    return f'<th scope="col" class="{css}" colspan="{span}">{_escape(text)}</th>'


def _number(text: str) -> str:
    return f'<td class="number">{text}</td>'


def _words(texts: Iterable[str]) -> str:
    return f'<td class="pieces">{_escape(", ".join(texts))}</td>'


def _neighbours(found: Interpretation) -> str:
    heads = [_head("", "number"), _head("norm", "number"), _head("percentile", "number")]
    heads += [_head("nearest by cosine", span=found.k), _head("by distance")]
    labels = set(found.labels.words) if found.labels else set()
    return _table(heads, (_neighbour_row(p, labels) for p in found.positions), "wide")


def _neighbour_row(position: Position, labels: set[str]) -> str:
    by_distance = ", ".join(f"{piece.text} ({piece.value:.1f})" for piece in position.euclidean)
    cells = [
        _number(position.index),
        _number(f"{position.norm:.1f}"),
        _number(f"{position.norm_percentile:.0f}"),
        *(_bar(piece, piece.text in labels) for piece in position.cosine),
        f'<td title="{_escape(by_distance)}">{_piece(position.euclidean[0], 1)}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _bar(piece: Piece, is_label: bool) -> str:
    share = max(0.0, piece.value)
    css = "bar label" if is_label else "bar"
    return f'<td class="{css}" style="--share:{share:.0%}">{_piece(piece, 2)}</td>'


def _piece(piece: Piece, digits: int) -> str:
    return f"<b>{_escape(piece.text)}</b> <small>{piece.value:.{digits}f}</small>"


def _labels(found: Interpretation) -> str:
    labels = found.labels
    heads = [_head("label"), _head("best rank", "number"), _head("at position", "number")]
    heads += [_head(f"positions with it among the {found.k} nearest")]
    rows = []
    for word, (rank, position) in labels.best.items():
        places = [str(place) for place in labels.positions[word]]
        cells = [f'<td><b class="label">{_escape(word)}</b></td>', _number(rank), _number(position)]
        rows.append(f"<tr>{''.join(cells)}{_words(places or ['none'])}</tr>")
    return (
        f"<p>A label is among the {found.k} nearest pieces of {labels.rate:.0%} of the positions; "
        f"of random vectors, of {labels.random_rate:.0%}.</p>{_table(heads, rows)}"
    )


def _groups(groups: list[Group]) -> str:
    if not groups:
        return "<p>None are.</p>"
    heads = [_head("positions"), _head("pieces")]
    rows = [
        f"<tr>{_words(map(str, group.positions))}{_words(group.pieces)}</tr>"
        for group in groups[:MOST_GROUPS]
    ]
    more = len(groups) - MOST_GROUPS
    rest = f"<p>{more} more groups are in interpretation.json.</p>" if more > 0 else ""
    return f'<div class="scroll">{_table(heads, rows)}</div>{rest}'


def _tightness(found: Interpretation) -> str:
    clusters = found.clusters
    if clusters.tightness is None:
        return ""
    return (
        f"Here the neighbours of a position have a mean cosine of {clusters.tightness:.2f} among "
        f"themselves; those of a random vector, {clusters.random_tightness:.2f}."
    )


def _drift(found: Interpretation) -> str:
    heads = [_head("", "number"), _head("began as"), _head("cosine"), _head("moved", "number")]
    heads += [_head("nearest now"), _head("began as label, its rank now", "number")]
    rows = []
    for start, position in zip(found.drift, found.positions, strict=True):
        now = position.cosine[0].text
        rank = "" if start.label is None else f"{_escape(start.label)}, {start.label_rank}"
        cells = [
            _number(position.index),
            f"<td>{_escape(start.piece)}</td>",
            f'<td class="bar" style="--share:{max(0.0, start.cosine):.0%}">{start.cosine:.2f}</td>',
            _number(f"{start.relative:.2f}"),
            "<td><small>the same</small></td>" if start.kept else f"<td>{_escape(now)}</td>",
            _number(rank),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll">{_table(heads, rows)}</div>'


def _changes(found: Interpretation, svgs: dict[str, str]) -> str:
    picture = f"<figure>{svgs['changes']}</figure>" if "changes" in svgs else ""
    steps = [change.step for change in found.changes]
    rows = []
    for position in found.positions:
        nearest = [change.nearest[position.index] for change in found.changes]
        stays = _stays(steps, nearest)
        if len(stays) > 1:
            path = " → ".join(f"{piece} ({step})" for step, piece in stays)
            rows.append(f"<tr>{_number(position.index)}{_words([path])}</tr>")
    if not rows:
        return f"{picture}<p>No position's nearest piece changed.</p>"
    heads = [_head("", "number"), _head("nearest piece (from step)")]
    return f'{picture}<div class="scroll">{_table(heads, rows)}</div>'


def _stays(steps: list[int], nearest: list[str]) -> list[tuple[int, str]]:
    """(first step, piece) of each stretch of snapshots with one nearest piece."""
    stretches = itertools.groupby(zip(steps, nearest, strict=True), key=lambda pair: pair[1])
    return [next(stretch) for _, stretch in stretches]
