"""The fingerprint of a T5X checkpoint's weights, cached in a file beside it.

checkpoint_1100000                       what T5X wrote
.checkpoint_1100000.fingerprint.json     what this module adds, the first time it is asked

Hashing reads every weight, so it is done once. A checkpoint that was written again is hashed again.
"""

import hashlib
import json
import logging
import os
import posixpath
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prompt_tuning_jax.checkpoints.fingerprint import line, of_lines
from prompt_tuning_jax.checkpoints.stored_array import Cache, by_source
from prompt_tuning_jax.checkpoints.t5x import legacy as t5x_legacy
from prompt_tuning_jax.checkpoints.t5x import orbax as t5x_orbax
from prompt_tuning_jax.checkpoints.t5x.checkpoint import (
    T5XCheckpoint,
    open_checkpoint,
    prompt_names,
)
from prompt_tuning_jax.checkpoints.t5x.storage import Storage
from prompt_tuning_jax.checkpoints.t5x.weights import find_weights
from prompt_tuning_jax.json_values import json_object

_READERS = 4  # reads wait for disks and networks, but take memory
_INDEXES = (t5x_legacy.INDEX, t5x_orbax.METADATA, t5x_orbax.STEP_METADATA)


def checkpoint_fingerprint(path: str | os.PathLike) -> str:
    """`fingerprint` of a checkpoint's weights: the one that its model has once it is loaded.

    Raises:
      FileNotFoundError, ValueError: as `open_checkpoint` and `find_weights`.
    """
    checkpoint = open_checkpoint(path)
    storage = Storage(checkpoint.path)
    beside = Storage(posixpath.dirname(storage.name))
    key, version = f".{storage.basename}.fingerprint.json", _version(storage)
    kept = _read(beside, key)
    if kept.get("version") != version:
        kept = {"version": version, "fingerprint": _hash(checkpoint)}
        _keep(beside, key, kept)
    return kept["fingerprint"]


def _hash(checkpoint: T5XCheckpoint) -> str:
    logging.info("Hashing the weights of %s, by which prompts know their model.", checkpoint.path)
    prompts = prompt_names(checkpoint)
    weights = find_weights({n: x for n, x in checkpoint.leaves().items() if n not in prompts})

    def lines(names: list[str]) -> dict[str, str]:
        cache: Cache = {}  # layers stacked in one leaf are read together
        return {name: line(name, weights[name].read(cache=cache)) for name in names}

    with ThreadPoolExecutor(_READERS) as pool:
        parts = list(pool.map(lines, by_source(weights)))
    return of_lines({name: text for part in parts for name, text in part.items()})


def _version(storage: Storage) -> str:
    """Changes when the checkpoint is written again: its indexes and, here, its files' times."""
    indexes = [storage.read(key) or b"" for key in _INDEXES]
    files = [] if storage.remote else sorted(Path(storage.name).rglob("*"))
    states = [(file.name, *_size_and_time(file)) for file in files if file.is_file()]
    return hashlib.sha256(repr((indexes, states)).encode()).hexdigest()


def _size_and_time(file: Path) -> tuple[int, int]:
    state = file.stat()
    return state.st_size, state.st_mtime_ns


def _read(storage: Storage, key: str) -> Mapping[str, Any]:
    """What was kept; nothing where there is no such file, or it is damaged."""
    try:
        kept = json_object(storage.read(key) or b"{}", key, "It is written anew.")
    except ValueError:
        return {}
    return kept if isinstance(kept.get("fingerprint"), str) else {}


def _keep(storage: Storage, key: str, kept: Mapping[str, Any]) -> None:
    try:
        storage.write(key, json.dumps(kept).encode())
    except ValueError as error:
        logging.warning("%s. The next run hashes the weights again.", error)
