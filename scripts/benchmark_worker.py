"""The worker's side of benchmark.py; standard library only, since each worker brings its own.

A worker is a process that prepares something, says that it is ready, and then does it k times
whenever it is told to. Messages are lines of JSON:

    worker   {"versions": ..., "trained": ...}              once, when ready
    driver   5                                              do it five times
    worker   {"seconds": 0.8, "peak_bytes": 1600000000}     per time; of all that it has done
"""

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Settings = Mapping[str, Any]
Repeat = Callable[[int], None]
"""Does the work k times and returns when all of it is done."""

Builder = Callable[[Settings], tuple[Repeat, dict[str, Any]]]
"""Prepares the work, compiled and run once; also returns facts to record about it."""


def peak_bytes(usage: resource.struct_rusage) -> int:
    """The largest resident set; the system counts in kilobytes, except macOS."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_peak() -> int:
    """The most bytes that this process has had in the machine's memory."""
    return peak_bytes(resource.getrusage(resource.RUSAGE_SELF))


def serve(builders: Mapping[str, Builder], peak: Callable[[], int] = resident_peak) -> None:
    """Runs the worker that the command line's JSON describes until standard input ends.

    Args:
      peak: the most bytes that it has used, in whichever memory counts.
    """
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    settings = json.loads(sys.argv[1])
    repeat, facts = builders[settings["benchmark"]](settings)
    facts["versions"]["python"] = platform.python_version()
    print(json.dumps(facts), file=replies)
    for line in sys.stdin:
        started = time.perf_counter()
        repeat(int(line))
        seconds = (time.perf_counter() - started) / int(line)
        print(json.dumps({"seconds": seconds, "peak_bytes": peak()}), file=replies)
