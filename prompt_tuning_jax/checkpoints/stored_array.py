"""An array of a checkpoint, in whatever format, that has not been read yet.

    stacked = leaves["encoder/encoder/mlp/wo/kernel"]        # [F, L, D]; only its header was read
    kernel = stacked.layer(3, axis=1).as_floats(jnp.bfloat16)  # [F, D]; still nothing is read
    kernel.read()                                            # the values
    kernel.read((slice(0, 64), slice(None)))                 # 64 rows, and only those are read

Each change gives another `StoredArray`. Of the last one, a part can still be read alone: it is
traced back through the changes to where it lies in the file.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from prompt_tuning_jax.devices.sharding import Conversion

Shape = tuple[int, ...]
Part = tuple[slice, ...]  # of each dimension, from where to where
Cache = dict[Any, np.ndarray]
ALONE = "Save the model that is meant alone."


def add_once(found: dict[str, str], weight: str, name: str, place: object) -> None:
    """Adds to weights' names in a file that `weight` is called `name` there.

    Raises:
      ValueError: it has another name already; `place` is the file.
    """
    if weight in found:
        raise ValueError(f"{place} holds {weight} twice, as {found[weight]} and {name}. {ALONE}")
    found[weight] = name


class StoredArray:
    """What is known of an array before its values are read, and how they are read.

    Attributes:
      name: in the checkpoint, as errors call it.
      place: the file or directory that holds it.
      shape: of what `read` returns.
      dtype: of what `read` returns; None where numpy has none like the one stored.
    """

    def __init__(
        self,
        name: str,
        place: str,
        shape: Iterable[int],
        dtype: np.dtype | None,
        read_part: Callable[[tuple[Any, ...]], np.ndarray],
    ):
        """An array as it is stored.

        Args:
          read_part: an index for each dimension -> the values there; it raises ValueError, naming
            the array, where the file is damaged.
        """
        self.name = name
        self.place = place
        self.shape = tuple(shape)
        self.dtype = dtype
        self._read_part = read_part

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def source(self) -> "StoredArray":
        """The array in the file that this one is made of; itself if nothing was changed."""
        return self

    def read(self, part: Part | None = None, cache: Cache | None = None) -> np.ndarray:
        """The values, or a part of them: no more of the file is read than they lie in.

        Args:
          part: a slice for each dimension, as JAX names a device's part; None for all.
          cache: keeps what was read of `source`, for other arrays that are made of it.

        Raises:
          ValueError: the file is damaged; or as `as_floats` says.
        """
        part = (slice(None),) * len(self.shape) if part is None else part
        part = tuple(slice(*s.indices(n)[:2]) for s, n in zip(part, self.shape, strict=True))
        return np.asarray(self._values(part, cache), order="C")

    def rows(self, index: slice | np.ndarray) -> np.ndarray:
        """Rows of an array as it is stored: a slice of them, or those with these numbers.

        Raises:
          ValueError: the file is damaged.
        """
        if isinstance(index, slice):  # an end beyond the last row is allowed
            index = slice(*index.indices(self.shape[0]))
        return self._read_part((index,))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype=dtype)

    def transposed(self) -> "StoredArray":
        """[a, b] -> [b, a]."""

        def values(part: Part, cache: Cache | None) -> np.ndarray:
            return self._values(part[::-1], cache).T

        return _View(self, self.shape[::-1], self.dtype, values)

    def layer(self, number: int, axis: int) -> "StoredArray":
        """One of the layers that are stacked on an axis; all of them are read together."""

        def values(part: Part, cache: Cache | None) -> np.ndarray:
            of_all = (*part[:axis], slice(0, self.shape[axis]), *part[axis:])
            return self._values(of_all, cache).take(number, axis=axis)

        shape = self.shape[:axis] + self.shape[axis + 1 :]
        return _View(self, shape, self.dtype, values)

    def joined(self, axis: int) -> "StoredArray":
        """Two dimensions as one: heads and what is in each, [..., H, K, ...] -> [..., H * K, ...].

        Heads are read whole.
        """
        width = self.shape[axis + 1]

        def values(part: Part, cache: Cache | None) -> np.ndarray:
            start, stop = part[axis].start, part[axis].stop
            first, last = start // width, -(-stop // width)
            heads = (*part[:axis], slice(first, last), slice(0, width), *part[axis + 1 :])
            found = self._values(heads, cache)
            wanted = slice(start - first * width, stop - first * width)
            return found.reshape(_joined(found.shape, axis))[(slice(None),) * axis + (wanted,)]

        return _View(self, _joined(self.shape, axis), self.dtype, values)

    def as_floats(self, dtype: Any = None) -> "StoredArray":
        """The values in `dtype` (None: as stored), which must be floating-point and finite.

        `read` raises ValueError if they are not.
        """

        def values(part: Part, cache: Cache | None) -> np.ndarray:
            found = self._values(part, cache)
            if not jnp.issubdtype(found.dtype, jnp.floating):
                raise ValueError(
                    f"{self.place}: {self.name} is {found.dtype}, but weights must be "
                    "floating-point. Use another checkpoint."
                )
            found = found.astype(found.dtype if dtype is None else dtype, copy=False)
            if not np.isfinite(found).all():
                raise ValueError(
                    f"{self.place}: {self.name} holds NaN or infinite values. Fetch it again, or "
                    "use another checkpoint."
                )
            return found

        return _View(self, self.shape, self.dtype if dtype is None else np.dtype(dtype), values)

    def _values(self, part: Part, cache: Cache | None) -> np.ndarray:
        if cache is None:
            return self._read_part(part)
        key = (id(self), *((s.start, s.stop) for s in part))
        if key not in cache:
            cache[key] = self._read_part(part)
        return cache[key]


class _View(StoredArray):
    """An array that is made of another when it is read."""

    def __init__(
        self,
        base: StoredArray,
        shape: Shape,
        dtype: np.dtype | None,
        values: Callable[[Part, Cache | None], np.ndarray],
    ):
        super().__init__(base.name, base.place, shape, dtype, lambda part: values(part, None))
        self._source = base.source
        self._from_base = values

    @property
    def source(self) -> StoredArray:
        return self._source

    def _values(self, part: Part, cache: Cache | None) -> np.ndarray:
        return self._from_base(part, cache)


def _joined(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def by_source(arrays: Mapping[str, StoredArray]) -> list[list[str]]:
    """The names of the arrays, in groups that are made of the same array in the file."""
    groups: dict[int, list[str]] = {}
    for name, array in arrays.items():
        groups.setdefault(id(array.source), []).append(name)
    return list(groups.values())


def read_arrays(
    arrays: Mapping[str, StoredArray],
    places: Mapping[str, Sharding],
    convert: Conversion | None = None,
    readers: int = 1,
) -> dict[str, Any]:
    """Reads arrays, `readers` of the file's at a time: no more are in memory beside the result.

    Args:
      places: name -> the sharding of the array to make; each device's part is then read alone.
        Those that it does not name become numpy arrays.
      convert: (name, values) -> what replaces them, by name, as soon as they are read.

    Raises:
      ValueError: as `StoredArray.read`.
    """

    def read(names: list[str]) -> dict[str, Any]:
        cache: Cache | None = {} if len(names) > 1 else None
        values: dict[str, Any] = {}
        for name in names:
            value = _read(arrays[name], places.get(name), cache)
            values |= convert(name, value) if convert else {name: value}
        return values

    groups = by_source(arrays)
    if readers == 1:  # in this thread, where the caller's settings of JAX hold
        found = [read(names) for names in groups]
    else:
        with ThreadPoolExecutor(readers) as pool:
            found = list(pool.map(read, groups))
    return {name: value for values in found for name, value in values.items()}


def _read(array: StoredArray, sharding: Sharding | None, cache: Cache | None) -> Any:
    if sharding is None:
        return array.read(cache=cache)
    parts: dict[Any, np.ndarray] = {}

    def part(index: Part) -> np.ndarray:
        key = tuple(s.indices(size) for s, size in zip(index, array.shape, strict=True))
        if key not in parts:  # devices that hold the same part share what is read
            parts[key] = array.read(index, cache)
        return parts[key]

    return jax.make_array_from_callback(array.shape, sharding, part)
