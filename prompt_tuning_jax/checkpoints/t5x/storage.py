"""Where a T5X checkpoint lies, and its arrays, read only when and as far as they are asked for.

Everything goes through tensorstore: local directories, `gs://bucket/...`, `s3://`, `http://`.
"""

import math
import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts

from prompt_tuning_jax.checkpoints.weight_check import Shape

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


@dataclass(frozen=True, eq=False)
class Leaf:
    """One array of a checkpoint. Only its header has been read; `read` reads values."""

    name: str
    place: str
    array: Any  # ts.TensorStore, or np.ndarray where the checkpoint's index holds the values

    @property
    def shape(self) -> Shape:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype:
        dtype = self.array.dtype
        return dtype.numpy_dtype if isinstance(dtype, ts.dtype) else dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, index: Any = ...) -> np.ndarray:
        """The values, or those at an index of slices: only the chunks they lie in are read.

        Raises:
          ValueError: a chunk is missing, cut short or corrupt.
        """
        try:
            part = self.array[index]
            return np.asarray(part.read().result() if isinstance(part, ts.TensorStore) else part)
        except Exception as error:
            raise ValueError(
                f"{self.place} is damaged or cut short at {self.name} ({brief(error)}). "
                "Copy it again from where it came."
            ) from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype=dtype)


def open_leaves(place: str, sources: Mapping[str, Any]) -> dict[str, Leaf]:
    """name -> Leaf, for sources that are tensorstore specs or arrays; all headers at once."""
    opening = {
        name: _open(source) for name, source in sources.items() if isinstance(source, Mapping)
    }
    leaves = {}
    for name, source in sources.items():
        try:
            array = opening[name].result() if name in opening else np.asarray(source)
        except Exception as error:
            raise ValueError(
                f"{place} has no readable {name} although its index names it ({brief(error)}): it "
                "is cut short. Copy it again from where it came."
            ) from error
        leaves[name] = Leaf(name, place, array)
    return leaves


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
