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

SCHEMES = ("gs", "s3", "http", "https", "file", "memory")
# How long an index is waited for. Of arrays, which may be large, only a standstill is limited: a
# connection that is not made, or on which nothing comes.
ANSWER_SECONDS = 60.0
os.environ.setdefault("TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS", "10")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "30")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
_RETRIES = {"max_retries": 3, "initial_delay": "500ms", "max_delay": "4s"}
CONTEXT = ts.Context(
    {"file_io_concurrency": {"limit": 64}}
    | {f"{store}_request_retries": _RETRIES for store in ("gcs", "s3", "http")}
)


class Storage:
    """A directory, here or elsewhere."""

    def __init__(self, path: str | os.PathLike):
        name = os.fspath(path)
        self.remote = is_url(name)
        _check_scheme(name)
        if self.remote:
            self.name = name.rstrip("/")
            base: Any = self.name + "/"
        else:
            self.name = os.path.abspath(os.path.expanduser(name))
            base = {"driver": "file", "path": self.name + "/"}
        try:
            self._store = _answer(ts.KvStore.open(base, context=CONTEXT), name)
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
            found = _answer(self._store.read(key), f"{self.name}/{key}")
        except NoAnswerError:
            raise
        except Exception as error:  # tensorstore raises many kinds: no access, no network, ...
            raise ValueError(f"{self.name}/{key} cannot be read: {brief(error)}") from error
        return found.value if found.state == "value" else None

    def write(self, key: str, data: bytes) -> None:
        """Writes a file whole.

        Raises:
          ValueError: it cannot be written.
        """
        try:
            _answer(self._store.write(key, data), f"{self.name}/{key}")
        except NoAnswerError:
            raise
        except Exception as error:
            raise ValueError(f"{self.name}/{key} cannot be written: {brief(error)}") from error

    def children(self) -> list[str]:
        """The names of the files and directories here; empty where there is nothing."""
        if not self.remote:
            return sorted(os.listdir(self.name)) if os.path.isdir(self.name) else []
        try:
            keys = _answer(self._store.list(), self.name)
        except NoAnswerError:
            raise
        except Exception as error:
            if "does not support listing" in str(error):  # http://
                return []
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
            values = _answer(opening[name], place) if name in opening else np.asarray(source)
        except NoAnswerError:
            raise
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
            return np.asarray(_answer(found.read(), place, is_large=True) if is_stored else found)
        except NoAnswerError:
            raise
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


class NoAnswerError(ConnectionError):
    """A store did not answer in time."""


def _answer(future: ts.Future, place: str, is_large: bool = False) -> Any:
    """What a store answers.

    Raises:
      NoAnswerError: it does not, after some tries or, unless much is asked for, ANSWER_SECONDS.
    """
    try:
        return future.result(timeout=None if is_large else ANSWER_SECONDS)
    except TimeoutError as error:
        reason = f"for {ANSWER_SECONDS:.0f} seconds"
        raise NoAnswerError(_no_answer(place, reason)) from error
    except Exception as error:
        if "retry attempts failed" not in str(error):
            raise
        raise NoAnswerError(_no_answer(place, f"({brief(error)})")) from error


def _no_answer(place: str, reason: str) -> str:
    return (
        f"{place} gives no answer {reason}: look at the address, the network and your access, or "
        "copy the checkpoint to this computer and pass its path."
    )


def _check_scheme(name: str) -> None:
    scheme, separator, _ = name.partition("://")
    if separator and scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES[:4])
        raise ValueError(
            f"{name}: {scheme}:// is no address that is read. Pass one of {known}, or a path."
        )


def is_url(path: Any) -> bool:
    """Whether a path is one of tensorstore's, such as gs://bucket/folder."""
    return "://" in str(path)


def brief(error: Exception) -> str:
    """The first sentence of a tensorstore error, without the specs that it appends."""
    text = str(error).split(" [tensorstore_spec=")[0].split(" [source locations=")[0]
    return " ".join(text.split())[:300] or type(error).__name__
