"""Where a T5X checkpoint lies, and its arrays, read only when and as far as they are asked for.

Everything goes through tensorstore: local directories, `gs://bucket/...`, `s3://`, `http://`.
"""

import os
import posixpath
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorstore as ts

from prompt_tuning_jax.checkpoints.stored_array import StoredArray

CONTEXT = ts.Context({"file_io_concurrency": {"limit": 64}})


class Storage:
    """A directory, here or elsewhere."""

    def __init__(self, path: str | os.PathLike):
        name = os.fspath(path)
        self.remote = is_url(name)
        if self.remote:
            self.name = name.rstrip("/")
            base: Any = self.name + "/"
        else:
            self.name = os.path.abspath(os.path.expanduser(name))
            base = {"driver": "file", "path": self.name + "/"}
        try:
            self._store = ts.KvStore.open(base, context=CONTEXT).result()
        except Exception as error:
            raise ValueError(f"{name} is no path that can be read: {brief(error)}") from error

    def __truediv__(self, name: str) -> "Storage":
        return Storage(f"{self.name}/{name}")

    @property
    def basename(self) -> str:
        return posixpath.basename(self.name.rstrip("/"))

    def read(self, key: str) -> bytes | None:
        """A file's bytes; None where there is no such file."""
        try:
            found = self._store.read(key).result()
        except Exception as error:  # tensorstore raises many kinds: no access, no network, ...
            raise ValueError(f"{self.name}/{key} cannot be read: {brief(error)}") from error
        return found.value if found.state == "value" else None

    def write(self, key: str, data: bytes) -> None:
        """Writes a file whole.

        Raises:
          ValueError: it cannot be written.
        """
        try:
            self._store.write(key, data).result()
        except Exception as error:
            raise ValueError(f"{self.name}/{key} cannot be written: {brief(error)}") from error

    def children(self) -> list[str]:
        """The names of the files and directories here; empty where there is nothing."""
        if not self.remote:
            return sorted(os.listdir(self.name)) if os.path.isdir(self.name) else []
        try:
            keys = self._store.list().result()
        except Exception as error:
            raise ValueError(f"{self.name} cannot be listed: {brief(error)}") from error
        return sorted({key.decode().split("/")[0] for key in keys})

    def array_at(self, key: str) -> dict[str, Any]:
        """The tensorstore spec of where the array `key` lies."""
        place = self._store.spec().to_json()
        place["path"] = f"{place['path']}{key.strip('/')}/"
        return place

    def spec(self) -> dict[str, Any]:
        return self._store.spec().to_json()


def open_leaves(place: str, sources: Mapping[str, Any]) -> dict[str, StoredArray]:
    """The leaves of a checkpoint at `place`, all of whose headers are read at once.

    Args:
      sources: name -> a tensorstore spec, or the values where the checkpoint's index holds them.

    Raises:
      ValueError: an array is not where the index says.
    """
    opening = {
        name: _open(source) for name, source in sources.items() if isinstance(source, Mapping)
    }
    leaves = {}
    for name, source in sources.items():
        try:
            values = opening[name].result() if name in opening else np.asarray(source)
        except Exception as error:
            raise ValueError(
                f"{place} has no readable {name} although its index names it ({brief(error)}): it "
                "is cut short. Copy it again from where it came."
            ) from error
        leaves[name] = _leaf(name, place, values)
    return leaves


def _leaf(name: str, place: str, values: ts.TensorStore | np.ndarray) -> StoredArray:
    def read_part(part: tuple[Any, ...]) -> np.ndarray:
        try:
            found = values[part]
            return np.asarray(found.read().result() if is_stored else found)
        except Exception as error:
            raise ValueError(
                f"{place} is damaged or cut short at {name} ({brief(error)}). "
                "Copy it again from where it came."
            ) from error

    is_stored = isinstance(values, ts.TensorStore)
    dtype = values.dtype.numpy_dtype if is_stored else values.dtype
    return StoredArray(name, place, values.shape, dtype, read_part)


def _open(spec: Mapping[str, Any]) -> Any:
    # Without this setting a chunk that is missing reads as zeros.
    spec = {**spec, "fill_missing_data_reads": False}
    return ts.open(ts.Spec(spec), open=True, read=True, context=CONTEXT)


def is_url(path: Any) -> bool:
    """Whether a path is one of tensorstore's, such as gs://bucket/folder."""
    return "://" in str(path)


def brief(error: Exception) -> str:
    """The first sentence of a tensorstore error, without the specs that it appends."""
    text = str(error).split(" [tensorstore_spec=")[0].split(" [source locations=")[0]
    return " ".join(text.split())[:300] or type(error).__name__
