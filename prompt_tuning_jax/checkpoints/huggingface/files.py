"""A model's weights in safetensors files: one `model.safetensors`, or shards and their index."""

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from safetensors import SafetensorError, safe_open

from prompt_tuning_jax.checkpoints.atomic import flush_to_disk, save_tensors
from prompt_tuning_jax.checkpoints.huggingface.names import EMBEDDING_COPIES, is_transposed
from prompt_tuning_jax.checkpoints.json_file import read_json
from prompt_tuning_jax.checkpoints.weight_check import Shape
from prompt_tuning_jax.devices.sharding import Conversion

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ROWS = 4096
DOWNLOADED = (_WEIGHTS, "model-*.safetensors", _INDEX)


class Stored(NamedTuple):
    """Where a weight lies, as the file's header says."""

    file: Path
    key: str
    shape: Shape


def _weight_files(directory: Path) -> list[Path]:
    if (directory / _WEIGHTS).is_file():
        return [directory / _WEIGHTS]
    if (directory / _INDEX).is_file():
        shards = read_json(directory / _INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(_is_plain(v) for v in shards.values()):
            raise ValueError(f"{directory / _INDEX} has no valid weight_map. Fetch it again.")
        return [directory / shard for shard in sorted(set(shards.values()))]
    if any(directory.glob("pytorch_model*.bin")):
        raise FileNotFoundError(
            f"{directory} has its weights only as a pickle: {how_to_convert(directory)}"
        )
    raise FileNotFoundError(
        f"{directory} has no {_WEIGHTS} and no {_INDEX}: fetch them, or pass a model that has them."
    )


def has_weights(directory: Path) -> bool:
    """Whether there are weights in the form that is read."""
    return any((directory / name).is_file() for name in (_WEIGHTS, _INDEX))


def how_to_convert(source: str | os.PathLike) -> str:
    """What to do about a model whose weights are a pickle."""
    return (
        "pytorch_model.bin can run code and is never read. Convert it where transformers is "
        f"installed: T5ForConditionalGeneration.from_pretrained({os.fspath(source)!r})"
        ".save_pretrained(NEW_DIRECTORY), and pass NEW_DIRECTORY."
    )


def _is_plain(name: Any) -> bool:
    # A name with a folder in it could lead out of the directory.
    return isinstance(name, str) and Path(name).name == name


def stored_weights(directory: Path) -> dict[str, Stored]:
    """Name -> place and shape of every weight, from the files' headers."""
    stored = {}
    for path in _weight_files(directory):
        with _opened(path) as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                stored[key] = Stored(path, key, tuple(file.get_slice(key).get_shape()))
    copies = [name for name in EMBEDDING_COPIES if name in stored]
    if copies and "shared.weight" not in stored:
        stored["shared.weight"] = stored.pop(copies[0])
    return stored


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: its index names it. Fetch it again.")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is corrupt or cut short ({error}). Fetch or write it again."
        ) from error


def check_copies(stored: Mapping[str, Stored]) -> None:
    """ValueError where a copy of the embedding table differs from it."""
    for name in EMBEDDING_COPIES:
        if name in stored and not _equal(stored[name], stored["shared.weight"]):
            raise ValueError(
                f"{stored[name].file}: {name} differs from shared.weight. This T5 has one "
                "embedding table; a model with several cannot be loaded."
            )


def _equal(one: Stored, other: Stored) -> bool:
    """Whether two weights are the same; some rows of each are in memory at a time."""
    if one.shape != other.shape:
        return False
    with _opened(one.file) as file, _opened(other.file) as other_file:
        a, b = file.get_slice(one.key), other_file.get_slice(other.key)
        rows = one.shape[0]
        blocks = (slice(i, min(i + _ROWS, rows)) for i in range(0, rows, _ROWS))
        return all(np.array_equal(a[block], b[block]) for block in blocks)


@dataclasses.dataclass(frozen=True)
class LazyWeight:
    """A weight under its T5X name, before it is read."""

    place: Stored
    is_transposed: bool
    dtype: Any

    @property
    def shape(self) -> Shape:
        return self.place.shape[::-1] if self.is_transposed else self.place.shape

    def read(self, file: Any, index: tuple[slice, ...]) -> np.ndarray:
        """The values at `index`, from the open file that holds them."""
        stored = file.get_slice(self.place.key)
        values = stored[index[::-1] if self.is_transposed else index]
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise ValueError(
                f"{self.place.file}: {self.place.key} is {values.dtype}; only floating-point "
                "weights are read."
            )
        values = values.astype(self.dtype, copy=False)
        if not np.isfinite(values).all():
            raise ValueError(
                f"{self.place.file}: {self.place.key} holds NaN or infinite values. Fetch it again."
            )
        return np.ascontiguousarray(values.T if self.is_transposed else values)


def read_weights(
    weights: Mapping[str, LazyWeight],
    places: Mapping[str, Sharding],
    convert: Conversion | None = None,
) -> dict[str, Any]:
    """The weights' values, one file open and one weight, or part of one, in transit at a time.

    Where `places` names a weight, it is made an array there; others become numpy arrays. What
    `convert` makes of a weight replaces it at once.
    """
    values = {}
    for path in sorted({weight.place.file for weight in weights.values()}):
        with _opened(path) as file:
            for name, weight in weights.items():
                if weight.place.file == path:
                    value = _read(weight, file, places.get(name))
                    values |= convert(name, value) if convert else {name: value}
    return values


def _read(weight: LazyWeight, file: Any, sharding: Sharding | None) -> Any:
    if sharding is None:
        return weight.read(file, (slice(None),) * len(weight.shape))
    parts: dict[Any, np.ndarray] = {}

    def part(index: tuple[slice, ...]) -> np.ndarray:
        bounds = tuple(s.indices(size)[:2] for s, size in zip(index, weight.shape, strict=True))
        if bounds not in parts:  # devices that hold the same part share what is read
            parts[bounds] = weight.read(file, index)
        return parts[bounds]

    return jax.make_array_from_callback(weight.shape, sharding, part)


def unused_stem(directory: Path) -> str:
    """A name that no old shard has: so the index decides, in one step, which shards count."""
    for number in itertools.count(1):
        stem = "model" if number == 1 else f"model-{number}"
        if not any(directory.glob(f"{stem}-0*.safetensors")):
            return stem


def write_weights(
    directory: Path, weights: Mapping[str, tuple[str, Any]], max_shard_bytes: int, stem: str
) -> None:
    """Writes {Hugging Face name: (T5X name, weight)}, one shard in memory at a time."""
    sizes = {name: weight.nbytes for name, (_, weight) in weights.items()}
    shards = _in_shards(sizes, max_shard_bytes)
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        file = _WEIGHTS if len(shards) == 1 else file
        tensors = {name: _stored_form(*weights[name]) for name in shard}
        save_tensors(tensors, directory / file, {"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (directory / _INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _in_shards(sizes: Mapping[str, int], max_shard_bytes: int) -> list[list[str]]:
    """Names in order, cut where the next weight would make a shard too large."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, nbytes in sizes.items():
        if shards[-1] and size + nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    return shards


def install(partial: Path, directory: Path) -> None:
    """Moves what was written into place; what makes the new weights count comes last."""
    written = sorted(partial.iterdir(), key=lambda file: file.name in (_WEIGHTS, _INDEX))
    for file in written:
        flush_to_disk(file)
    if not directory.exists():
        os.replace(partial, directory)
        return
    for file in written:
        os.replace(file, directory / file.name)
    new = {file.name for file in written}
    for old in (directory / _WEIGHTS, directory / _INDEX, *directory.glob("model-*.safetensors")):
        if old.name not in new:
            old.unlink(missing_ok=True)


def _stored_form(ours: str, weight: Any) -> np.ndarray:
    # safetensors writes an array's memory as it lies, so a transposed view must be made real.
    weight = np.asarray(weight)
    return np.ascontiguousarray(weight.T if is_transposed(ours) else weight)
