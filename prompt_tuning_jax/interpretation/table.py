"""An interpretation as tables for a terminal."""

import rich.console
import rich.table
import rich.text

from prompt_tuning_jax.interpretation.findings import Interpretation, Piece, Position
from prompt_tuning_jax.interpretation.summary import summary_lines


def print_findings(found: Interpretation, console: rich.console.Console) -> None:
    """Prints each position's neighbours, then what they say together."""
    console.print(_positions(found))
    for title, text in summary_lines(found):
        line = rich.text.Text(f"{title}: ", style="bold")
        console.print(line.append(text, style="not bold"))
    for note in found.notes:
        console.print(rich.text.Text(note, style="yellow"))


def _positions(found: Interpretation) -> rich.table.Table:
    table = rich.table.Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", justify="right", style="dim")
    table.add_column("norm", justify="right")
    table.add_column(f"nearest by cosine, {found.k}", ratio=3)
    table.add_column("by distance", ratio=1)
    if found.drift:
        table.add_column("began as", ratio=1)
    labels = set(found.labels.words) if found.labels else set()
    for position in found.positions:
        table.add_row(*_row(found, position, labels))
    return table


def _row(found: Interpretation, position: Position, labels: set[str]) -> list[rich.text.Text]:
    row = [
        rich.text.Text(str(position.index)),
        rich.text.Text(f"{position.norm:.1f}"),
        _pieces(position.cosine, labels),
        _pieces(position.euclidean[:1], labels),
    ]
    if found.drift:
        start = found.drift[position.index]
        style = "bold green" if start.piece in labels else ""
        cell = rich.text.Text(start.piece, style=style)
        row.append(cell.append(f" {start.cosine:.2f}", style="dim"))
    return row


def _pieces(pieces: list[Piece], labels: set[str]) -> rich.text.Text:
    """Pieces and their values; labels stand out."""
    line = rich.text.Text()
    for piece in pieces:
        line.append(piece.text, style="bold green" if piece.text in labels else "")
        line.append(f" {piece.value:.2f}  ", style="dim not bold")
    return line
