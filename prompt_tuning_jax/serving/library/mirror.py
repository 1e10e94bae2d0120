"""A bucket's prompts in a folder of this machine, as far as they are needed to serve them."""

import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

_ENDINGS = (".safetensors", ".json", ".npy")  # what prompts, adapters and ensembles are made of
_SAME = ("name", "Key", "size", "type", "StorageClass")  # of a file that was overwritten, too


def is_remote(folder: str | os.PathLike[str]) -> bool:
    """Whether it is an address such as gs://bucket/prompts."""
    return "://" in os.fspath(folder)


class Mirror:
    """Copies of what a bucket holds; nothing is written there.

    Attributes:
      folder: where the copies are; it is gone when the server is.
    """

    def __init__(self, address: str):
        """Copies nothing yet.

        Args:
          address: any that fsspec reads, such as gs://bucket/prompts or s3://bucket/prompts.

        Raises:
          ImportError: what reads this kind of address is not installed.
          ValueError: there is no such kind.
        """
        self._address = address
        self._store, self._root = fsspec.core.url_to_fs(address)
        self._kept = tempfile.TemporaryDirectory(prefix="prompt_tuning_mirror_")
        self.folder = Path(self._kept.name) / (PurePosixPath(self._root).name or "prompts")
        self.folder.mkdir()
        self._known: dict[str, str | None] = {}

    def update(self) -> None:
        """Copies what is new or other than it was, and deletes what is gone.

        Raises:
          FileNotFoundError: there is nothing at the address.
          OSError: it cannot be read.
        """
        try:
            there = self._listed()
            for name, (path, state) in list(there.items()):
                if state is None or self._known.get(name) != state:
                    try:
                        self._copy(name, path)
                    except FileNotFoundError:  # it went since it was listed
                        del there[name]
                        continue
                    self._known[name] = state
        except OSError:
            raise
        except Exception as error:  # each store has errors of its own
            raise OSError(f"{self._address} cannot be read: {error}") from error
        for name in self._known.keys() - there.keys():
            (self.folder / name).unlink(missing_ok=True)
            del self._known[name]

    def _listed(self) -> dict[str, tuple[str, str | None]]:
        """Each file's place below the address -> its path, and what changes when it does."""
        self._store.invalidate_cache()
        if not self._store.exists(self._root):
            raise FileNotFoundError(f"There is no folder {self._address}.")
        found = {}
        for path, facts in self._store.find(self._root, detail=True).items():
            name = PurePosixPath(path).relative_to(PurePosixPath(self._root))
            if name.suffix in _ENDINGS and ".." not in name.parts:
                found[str(name)] = path, _state(facts)
        return found

    def _copy(self, name: str, path: str) -> None:
        """A file as a whole; what stands there is replaced at once."""
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.partial")
        self._store.get_file(path, str(partial))
        partial.replace(place)


def _state(facts: dict[str, Any]) -> str | None:
    """None where the store says nothing that would change: such a file is copied every time."""
    told = {name: str(x) for name, x in facts.items() if name not in _SAME and x is not None}
    return str([facts.get("size"), sorted(told.items())]) if told else None
