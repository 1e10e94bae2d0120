"""Where the runs' logs go when standard output is for the result."""

import contextlib
from collections.abc import Iterator

import rich


@contextlib.contextmanager
def on_standard_error() -> Iterator[None]:
    """While inside, what runs say goes to standard error."""
    console = rich.get_console()
    before, console.stderr = console.stderr, True
    try:
        yield
    finally:
        console.stderr = before
