"""Records that a program adds to: what the file holds already is not measured again."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Record = dict[str, Any]


def add_options(parser: argparse.ArgumentParser, picture: str | None = None) -> None:
    """--output and --show.

    Args:
      picture: what there is to draw of the record; adds --plot.
    """
    parser.add_argument("--output", type=Path, help="JSON file for all figures; adds to it")
    parser.add_argument("--show", action="store_true", help="run nothing; show what --output holds")
    if picture:
        parser.add_argument("--plot", type=Path, help=f"PNG file for {picture}")


def measure_or_show(
    args: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Record], None],
    show: Callable[[Record], None],
    draw: Callable[[Record], Figure] | None = None,
) -> None:
    """Adds to the record of --output, unless it is to --show it alone, shows and draws it.

    Raises:
      SystemExit: there is nothing to show.
    """
    found: Record = {}
    if args.output and args.output.exists():
        found = json.loads(args.output.read_text())
    if not args.show:
        measure(args, found)
    if not found:
        raise SystemExit(f"--show shows what --output holds, and {args.output} holds nothing.")
    show(found)
    if draw and args.plot:
        draw(found).savefig(args.plot, format="png", dpi=100)


def save(args: argparse.Namespace, found: Record) -> None:
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n")
