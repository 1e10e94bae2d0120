"""The files of a model's directory; weights in one `model.safetensors`, or shards and an index."""

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from prompt_tuning_jax.checkpoints.atomic import flush_to_disk, save_tensors
from prompt_tuning_jax.checkpoints.huggingface.config import GENERATION
from prompt_tuning_jax.checkpoints.huggingface.names import (
    EMBEDDING_COPIES,
    without_wrappers,
)
from prompt_tuning_jax.checkpoints.stored_array import StoredArray
from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.vocabularies import files as vocabulary_files

CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ROWS = 4096
# A dtype's name in a header -> numpy's dtype, for those that a model may be found in.
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
# Those that safetensors does not give numpy, so that their bytes are read here.
_FLOAT8 = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
TOKENIZERS = vocabulary_files.NAMES
# What sentence-transformers keeps beside a network: see `checkpoints.sentence_transformers`.
_MODULES = (
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "[0-9]_*/*.json",
    "[0-9]_*/*.safetensors",
)
ALL_FILES = (CONFIG, GENERATION, *TOKENIZERS, _WEIGHTS, "model-*.safetensors", _INDEX, *_MODULES)


def _weight_files(directory: Path) -> list[Path]:
    if (directory / _WEIGHTS).is_file():
        return [directory / _WEIGHTS]
    index = directory / _INDEX
    if index.is_file():
        shards = json_object(index.read_bytes(), index, "Fetch it again.").get("weight_map")
        if not isinstance(shards, dict) or not all(_is_plain(v) for v in shards.values()):
            raise ValueError(f"{index} has no valid weight_map. Fetch it again.")
        return [directory / shard for shard in sorted(set(shards.values()))]
    if any(directory.glob("pytorch_model*.bin")):
        raise FileNotFoundError(
            f"{directory} has its weights only as a pickle: {how_to_convert(directory, directory)}"
        )
    raise FileNotFoundError(
        f"{directory} has no {_WEIGHTS} and no {_INDEX}: fetch them, or pass a model that has them."
    )


def has_weights(directory: Path) -> bool:
    """Whether there are weights in the form that is read."""
    return any((directory / name).is_file() for name in (_WEIGHTS, _INDEX))


def how_to_convert(source: str | os.PathLike, directory: Path) -> str:
    """What to do about a model whose weights are a pickle.

    Args:
      source: what transformers finds it by.
      directory: where its config.json is.
    """
    path = directory / CONFIG
    raw = json_object(path.read_bytes(), path, "Fetch it again.") if path.is_file() else {}
    is_causal = "model_type" in raw and not raw.get("is_encoder_decoder")
    kind = "AutoModelForCausalLM" if is_causal else "AutoModelForSeq2SeqLM"
    return (
        "pytorch_model.bin can run code and is never read. Convert it where transformers is "
        f"installed: {kind}.from_pretrained({os.fspath(source)!r}).save_pretrained(NEW_DIRECTORY), "
        "copy the tokenizer's files there, and pass NEW_DIRECTORY."
    )


def _is_plain(name: Any) -> bool:
    # A name with a folder in it could lead out of the directory.
    return isinstance(name, str) and Path(name).name == name


def stored_arrays(directory: Path) -> dict[str, StoredArray]:
    """The weights in a directory by their names there; only the files' headers are read.

    Raises:
      FileNotFoundError: there are none, or only a pickle, or a file of several is missing.
      ValueError: a file is corrupt.
    """
    arrays = {}
    for path in _weight_files(directory):
        arrays |= _arrays_in(path)
    return arrays


def t5_arrays(directory: Path) -> dict[str, StoredArray]:
    """`stored_arrays` of a T5 by the names that its weights have.

    What wraps a model while it trains leaves its mark before its names (`module.`, `_orig_mod.`):
    that is left out.

    Raises:
      FileNotFoundError, ValueError: as `stored_arrays`; or a file holds two models.
    """
    arrays = stored_arrays(directory)
    arrays = {name: arrays[there] for name, there in without_wrappers(directory, arrays).items()}
    copies = [name for name in EMBEDDING_COPIES if name in arrays]
    if copies and "shared.weight" not in arrays:
        arrays["shared.weight"] = arrays.pop(copies[0])
    return arrays


def _arrays_in(path: Path) -> dict[str, StoredArray]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: its index names it. Fetch it again.")
    with _errors_naming(path):
        file = safe_open(path, framework="numpy")
        return {key: _array(path, key, file.get_slice(key)) for key in file.keys()}  # noqa: SIM118


def _array(path: Path, key: str, values: Any) -> StoredArray:
    """The array that safetensors' slice `values` reads; it keeps the file open."""

    stored, shape = values.get_dtype(), values.get_shape()
    if stored in _FLOAT8:
        whole = _mapped(path, key, _FLOAT8[stored], shape)
        return StoredArray(key, str(path), shape, whole.dtype, whole.__getitem__)

    def read_part(part: tuple[Any, ...]) -> np.ndarray:
        with _errors_naming(path):
            return values[part]

    return StoredArray(key, str(path), shape, _DTYPES.get(stored), read_part)


def _mapped(path: Path, key: str, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    """A tensor's bytes where they lie in the file, whose header safetensors has checked."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start, _ = json.loads(file.read(length))[key]["data_offsets"]
    return np.memmap(path, np.uint8, "r", 8 + length + start, tuple(shape)).view(dtype)


@contextmanager
def _errors_naming(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise ValueError(
            f"{path} is corrupt or cut short ({error}). Fetch or write it again."
        ) from error


def check_copies(arrays: Mapping[str, StoredArray]) -> None:
    """ValueError where a copy of the embedding table differs from it."""
    for name in EMBEDDING_COPIES:
        if name in arrays and not _equal(arrays[name], arrays["shared.weight"]):
            raise ValueError(
                f"{arrays[name].place}: {name} differs from shared.weight. This T5 has one "
                "embedding table; a model with several cannot be loaded."
            )


def check_output(
    arrays: Mapping[str, StoredArray], table: str, tied: bool, name: str = "lm_head.weight"
) -> None:
    """ValueError where a tied model's output layer is in its file and differs from its table."""
    output = arrays.get(name)
    if tied and output is not None and table in arrays and not _equal(output, arrays[table]):
        raise ValueError(
            f"{output.place}: {name} differs from {table}, but {CONFIG} says by "
            "tie_word_embeddings that they are one. Set that to false if it has both."
        )


def _equal(one: StoredArray, other: StoredArray) -> bool:
    """Whether two tables hold the same values; some rows of each are in memory at a time."""
    if one.shape != other.shape:
        return False
    blocks = (slice(start, start + _ROWS) for start in range(0, one.shape[0], _ROWS))
    return all(np.array_equal(one.rows(block), other.rows(block)) for block in blocks)


def unused_stem(directory: Path) -> str:
    """A name that no old shard has: so the index decides, in one step, which shards count."""
    for number in itertools.count(1):
        stem = "model" if number == 1 else f"model-{number}"
        if not any(directory.glob(f"{stem}-0*.safetensors")):
            return stem


def write_weights(
    directory: Path, weights: Mapping[str, tuple[bool, Any]], max_shard_bytes: int, stem: str
) -> None:
    """Writes {Hugging Face name: (transposed there?, weight)}, one shard in memory at a time."""
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
    """Moves what was written into place; what makes the new weights count comes last.

    A tokenizer stays where none is written: the weights alone are new.
    """
    written = sorted(partial.iterdir(), key=lambda file: file.name in (_WEIGHTS, _INDEX))
    for file in written:
        flush_to_disk(file)
    if not directory.exists():
        os.replace(partial, directory)
        return
    new = {file.name for file in written}
    stale = [GENERATION] if new.isdisjoint(TOKENIZERS) else [GENERATION, *TOKENIZERS]
    for name in set(stale) - new:  # before the weights, which it would describe
        (directory / name).unlink(missing_ok=True)
    for file in written:
        os.replace(file, directory / file.name)
    for old in (directory / _WEIGHTS, directory / _INDEX, *directory.glob("model-*.safetensors")):
        if old.name not in new:
            old.unlink(missing_ok=True)


def _stored_form(transposed: bool, weight: Any) -> np.ndarray:
    # safetensors writes an array's memory as it lies, so a transposed view must be made real.
    weight = np.asarray(weight)
    return np.ascontiguousarray(weight.T if transposed else weight)
