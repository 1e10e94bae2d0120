"""Records that a program adds to: what the file holds already is not measured again."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """--output, and --show."""
    parser.add_argument("--output", type=Path, help="JSON file for all figures; adds to it")
    parser.add_argument("--show", action="store_true", help="run nothing; show what --output holds")


def measure_or_show(
    args: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Record], None],
    show: Callable[[Record], None],
) -> None:
    """Adds to the record of --output, unless it is to --show it alone, and shows it."""
    found: Record = {}
    if args.output and args.output.exists():
        found = json.loads(args.output.read_text())
    if not args.show:
        measure(args, found)
    show(found)


def save(args: argparse.Namespace, found: Record) -> None:
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n")
