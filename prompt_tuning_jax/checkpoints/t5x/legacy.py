"""Legacy T5X checkpoints: a msgpack file, and one zarr array per large leaf beside it."""

import os
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from prompt_tuning_jax.checkpoints.atomic import flush_to_disk, scratch_directory
from prompt_tuning_jax.checkpoints.t5x.storage import CONTEXT, Storage

INDEX = "checkpoint"
# 3 since June 2021. Before 2, checkpoints were Flax's own.
VERSIONS = (2, 3)
_CHUNK_BYTES = 64 * 2**20  # as T5X: small enough for parts to be read alone


def read_index(storage: Storage) -> dict[str, Any]:
    """name -> where its array lies (a tensorstore spec), its values, or None.

    Raises:
      ValueError: the file is TensorFlow's, cut short, of another version, or something else.
    """
    where = f"{storage.name}/{INDEX}"
    tree = _unpack(where, storage.read(INDEX))
    version = tree.get("version")
    if not isinstance(version, int) or "optimizer" not in tree:
        raise ValueError(
            f"{where} is msgpack, but no T5X checkpoint: it holds {sorted(map(str, tree))[:6]}, "
            "where T5X writes 'version' and 'optimizer'."
        )
    if version not in VERSIONS:
        age = "newer" if version > max(VERSIONS) else "older"
        raise ValueError(
            f"{where} has version {version}, {age} than the versions {VERSIONS} known here: "
            "restore and save it with the T5X that it belongs to."
        )
    flat = flatten_dict(tree["optimizer"], sep="/", is_leaf=lambda _, node: _is_array(node))
    return {name: _source(storage, leaf) for name, leaf in flat.items()}


def _unpack(where: str, data: bytes | None) -> dict[str, Any]:
    if data is None:
        raise ValueError(f"{where} is not there. Copy the checkpoint again.")
    if data.startswith(b"model_checkpoint_path"):
        raise ValueError(
            f"{where} belongs to a TensorFlow checkpoint (Mesh TensorFlow T5). Convert it with "
            "T5X's scripts/convert_tf_checkpoint, or load the Hugging Face copy of that model."
        )
    try:
        tree = serialization.msgpack_restore(data)
    except Exception as error:  # msgpack and Flax raise many kinds for bytes that are not theirs
        raise ValueError(
            f"{where} is cut short, or no msgpack file ({str(error)[:80]}). Copy it again."
        ) from error
    if not isinstance(tree, dict):
        raise ValueError(f"{where} holds a {type(tree).__name__}, not a T5X checkpoint.")
    return tree


def _is_array(node: Any) -> bool:
    """Whether a node of the index says where an array lies."""
    return isinstance(node, Mapping) and isinstance(node.get("kvstore"), Mapping)


def _source(storage: Storage, leaf: Any) -> Any:
    if not _is_array(leaf):
        return leaf
    # Paths are relative, and the driver is that of the disk it was first written to.
    name = leaf["kvstore"].get("path", leaf.get("path", ""))
    if not name or posixpath.isabs(name) or ".." in name.split("/"):
        raise ValueError(f"{storage.name}/{INDEX} names an array outside itself: {name!r}.")
    return {"driver": leaf.get("driver", "zarr"), "kvstore": storage.array_at(name)}


def write(checkpoint: Path, leaves: Mapping[str, Any]) -> None:
    """Writes {name: array or None}, one leaf in memory at a time; all of it or nothing."""
    with scratch_directory(checkpoint) as partial:
        index = {name: _written(partial, name, leaf) for name, leaf in leaves.items()}
        tree = {"version": max(VERSIONS), "optimizer": unflatten_dict(index, sep="/")}
        (partial / INDEX).write_bytes(serialization.msgpack_serialize(tree))
        for file in partial.rglob("*"):
            if file.is_file():
                flush_to_disk(file)
        os.replace(partial, checkpoint)


def _written(directory: Path, name: str, leaf: Any) -> Any:
    """Writes one leaf as a zarr array; returns what the index says of it."""
    if leaf is None:
        return None
    values = np.asarray(leaf)
    if values.ndim == 0:
        return values
    row_bytes = max(1, values.nbytes // max(1, values.shape[0]))
    rows = max(1, min(values.shape[0], _CHUNK_BYTES // row_bytes))
    spec = {
        "driver": "zarr",
        "dtype": values.dtype.name,
        "kvstore": {"driver": "file", "path": name.replace("/", ".")},
        "metadata": {
            "shape": list(values.shape),
            "chunks": [rows, *values.shape[1:]],
            "compressor": {"id": "gzip", "level": 1},
        },
    }
    here = {**spec, "kvstore": Storage(directory).array_at(spec["kvstore"]["path"])}
    ts.open(ts.Spec(here), create=True, context=CONTEXT).result().write(values).result()
    return spec
