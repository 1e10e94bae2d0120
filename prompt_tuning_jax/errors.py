"""The errors that say what a user did, in the words of the one who reads them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

# What a command shows as one line, without a traceback.
MISTAKES = (ValueError, OSError, ImportError, FloatingPointError)

_spelling: Callable[[str], str] = str
_call = "the same call"


class UsageError(ValueError):
    """What the command line or a gin file says cannot be understood."""


def spelled(name: str, value: Any = None) -> str:
    """A setting as the reader of an error writes it: `--batch_size`, or `batch_size` in Python.

    With a value it is given that: `--prompt_length 0`, or `prompt_length=0` in Python.
    """
    written = _spelling(name)
    if value is None:
        return written
    return f"{written} {value}" if written.startswith("--") else f"{written}={value}"


def same_call() -> str:
    """What to do again, as the reader would: the command's line, or in Python "the same call"."""
    return _call


@contextlib.contextmanager
def called(line: str) -> Iterator[None]:
    """`same_call` while inside."""
    global _call
    before, _call = _call, line
    try:
        yield
    finally:
        _call = before


def spell_as(how: Callable[[str], str]) -> Callable[[str], str]:
    """From now on, errors are for a reader who writes the setting `name` as `how(name)`.

    Returns what was in its place.
    """
    global _spelling
    before, _spelling = _spelling, how
    return before


@contextlib.contextmanager
def spelling(how: Callable[[str], str]) -> Iterator[None]:
    """`spell_as` while inside."""
    before = spell_as(how)
    try:
        yield
    finally:
        spell_as(before)
