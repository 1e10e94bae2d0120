"""TensorFlow's start, without what it logs then of GPU drivers and processor instructions.

It comes from C++, part of it before any log level counts, so it is taken out of what is written to
standard error meanwhile. With TF_CPP_MIN_LOG_LEVEL=0 in the environment nothing is.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_LOGGED = re.compile(
    rb"[IWE]\d{4} \d\d:\d\d:|WARNING: All log messages before absl::|To enable the following instr"
)


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """For the first import of TensorFlow. After an error in it, all that was written is shown."""
    # JAX sets 1 where the user has set nothing.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0" or not _has_stderr():
        yield
        return
    with tempfile.TemporaryFile() as written:
        hidden = None
        try:
            with _stderr_to(written.fileno()):
                yield
            hidden = _LOGGED
        finally:
            written.seek(0)
            for line in written:
                if hidden is None or not hidden.match(line):
                    os.write(2, line)


@contextlib.contextmanager
def _stderr_to(file: int) -> Iterator[None]:
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(file, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


def _has_stderr() -> bool:
    try:
        os.fstat(2)
    except OSError:
        return False
    return sys.stderr is not None
