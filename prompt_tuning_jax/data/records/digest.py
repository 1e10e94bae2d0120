"""Whether files are still what they were: size, time and sampled blocks, and a digest of all."""

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BLOCK = 2**16
BLOCKS = 16  # of a file that are sampled, the first and the last among them

Facts = dict[str, Any]
"""Of a file, as JSON values: path, size in bytes, modified in ns, sample and sha256 in hex."""


class FilesDigest:
    """Files as they are now, to be compared with the facts of an earlier time.

    Comparing reads a whole file only where its time differs from what it was.

    Args:
      role: what errors call a file, such as "training".
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], role: str):
        self._role = role
        self._now = [_quick(Path(path)) for path in paths]

    def facts(self) -> list[Facts]:
        """What is kept to compare with; reads the files where that has not been done."""
        for each in self._now:
            if "sha256" not in each:
                self._sha256_of(each)
        return self._now

    def difference(self, before: Any) -> str | None:
        """What has changed since the files had these facts; None if nothing has."""
        if not isinstance(before, list) or len(before) != len(self._now):
            return f"the {self._role} data were other files when this run began"
        for now, then in zip(self._now, before, strict=True):
            if now["size"] == then["size"] and now["modified"] == then["modified"]:
                same = now["sample"] == then["sample"]
            else:
                same = now["size"] == then["size"] and self._sha256_of(now) == then["sha256"]
            if not same:
                return f"the {self._role} file {now['path']} has changed since this run began"
            now["sha256"] = then["sha256"]
        return None

    @staticmethod
    def _sha256_of(now: Facts) -> str:
        now["sha256"] = _sha256(now["path"], now["size"], now["modified"], now["sample"])
        return now["sha256"]


def _quick(path: Path) -> Facts:
    """The facts that cost nothing to find, whatever the size."""
    status, sample = path.stat(), hashlib.sha256()
    last = max(0, status.st_size - BLOCK)
    with path.open("rb") as file:
        for offset in sorted({last * i // (BLOCKS - 1) for i in range(BLOCKS)}):
            file.seek(offset)
            sample.update(file.read(BLOCK))
    return {
        "path": str(path),
        "size": status.st_size,
        "modified": status.st_mtime_ns,
        "sample": sample.hexdigest(),
    }


@functools.lru_cache(64)
def _sha256(path: str, *quick: Any) -> str:
    """Of the file that has these quick facts: runs that train together read the same one."""
    del quick
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
