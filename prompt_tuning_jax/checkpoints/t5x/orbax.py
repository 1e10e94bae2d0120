"""Orbax checkpoints as T5X writes them: `state/` holds every leaf in one OCDBT database."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import unflatten_dict

from prompt_tuning_jax.checkpoints.t5x.storage import Storage
from prompt_tuning_jax.json_values import json_object

STATE = "state"
METADATA = "_METADATA"
STEP_METADATA = "_CHECKPOINT_METADATA"
COMMITTED = "commit_success.txt"
_DATABASE = "manifest.ocdbt"
_ARRAYS = ("jax.Array", "np.ndarray", "scalar")


def read_index(state: Storage) -> dict[str, Any]:
    """name -> where its array lies (a tensorstore spec), or None where the leaf is None.

    Raises:
      ValueError: the database is not there, or the metadata is not as Orbax writes it.
    """
    where = f"{state.name}/{METADATA}"
    metadata = _parsed(where, state.read(METADATA))
    if not isinstance(tree := metadata.get("tree_metadata"), Mapping):
        raise ValueError(
            f"{where} has no tree_metadata, but {sorted(metadata)[:6]}: it was written by a newer "
            "Orbax. Restore and save it with that version of T5X or Orbax."
        )
    ocdbt = metadata.get("use_ocdbt", True)
    if ocdbt and state.read(_DATABASE) is None:
        raise ValueError(f"{state.name} has no {_DATABASE}: it is cut short. Copy it again.")
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    try:
        leaves = {_name(entry): _kind(entry) for entry in tree.values()}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{where} describes its leaves in a way not known here ({error!r} is missing): it was "
            "written by a newer Orbax. Restore and save it with that version."
        ) from error
    return {
        name: None if kind == "None" else _source(state, name, driver, ocdbt)
        for name, kind in leaves.items()
        if kind in (*_ARRAYS, "None")
    }


def write(checkpoint: Path, leaves: Mapping[str, Any]) -> None:
    """Writes {name: array or None}; all of it or nothing. Values are all in memory together."""
    values = {name: None if leaf is None else _values(leaf) for name, leaf in leaves.items()}
    state = ocp.args.PyTreeSave(unflatten_dict(values, sep="/"))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(checkpoint, args=ocp.args.Composite(**{STATE: state}))


def is_committed(checkpoint: Storage) -> bool:
    """Whether the checkpoint was written to its end, by the marks that Orbax leaves."""
    if checkpoint.read(COMMITTED) is not None:
        return True
    data = checkpoint.read(STEP_METADATA)
    if data is None:  # an older Orbax: its directory got its name only when complete
        return not checkpoint.remote
    metadata = _parsed(f"{checkpoint.name}/{STEP_METADATA}", data)
    return metadata.get("commit_timestamp_nsecs") is not None


def _values(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _parsed(where: str, data: bytes | None) -> dict[str, Any]:
    if data is None:
        raise ValueError(f"{where} is not there: the checkpoint is cut short. Copy it again.")
    return json_object(data, where, "Copy the checkpoint again.")


def _name(entry: Mapping[str, Any]) -> str:
    return "/".join(str(part["key"]) for part in entry["key_metadata"])


def _kind(entry: Mapping[str, Any]) -> str:
    return entry["value_metadata"]["value_type"]


def _source(state: Storage, name: str, driver: str, ocdbt: bool) -> dict[str, Any]:
    key = name.replace("/", ".")
    if not ocdbt:
        return {"driver": driver, "kvstore": state.array_at(key)}
    database = {"driver": "ocdbt", "base": state.spec(), "path": f"{key}/"}
    return {"driver": driver, "kvstore": database}
