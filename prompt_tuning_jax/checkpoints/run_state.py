"""The state of a run, for resuming: what trains, its optimizer state, step and data position.

The frozen model is never written. A save is asynchronous and atomic: Orbax writes beside the last
complete state and renames, so a run killed at any moment resumes from a whole one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

DIRECTORY = "state"


class RunState:
    """Saves and restores the state of one run under `model_dir/state`."""

    def __init__(self, model_dir: str | Path, keep: int = 2):
        self._manager = ocp.CheckpointManager(
            Path(model_dir).absolute() / DIRECTORY,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
            item_names=("arrays", "meta"),
        )

    def latest_step(self) -> int | None:
        """The last complete step, or None for a fresh run."""
        return self._manager.latest_step()

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON side of a state: settings, data position, history."""
        return self._manager.restore(
            step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        ).meta

    def restore(self, step: int, arrays: Any) -> Any:
        """The arrays of a state, with the structure, dtypes and shardings of `arrays`."""
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _by_name(arrays))
        restored = self._manager.restore(
            step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(target))
        ).arrays
        return jax.tree.unflatten(jax.tree.structure(arrays), list(restored.values()))

    def save(self, step: int, arrays: Any, meta: Mapping[str, Any]) -> None:
        """Starts writing a state; returns as soon as the arrays are copied to the host."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(_by_name(arrays)), meta=ocp.args.JsonSave(dict(meta))
            ),
            force=True,
        )

    def close(self) -> None:
        """Waits for writes under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def _by_name(arrays: Any) -> dict[str, Any]:
    """Leaves in tree order, each under a name that sorts in that order and says what it is."""
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {
        f"{index:04d} {jax.tree_util.keystr(path, simple=True, separator='.')}".replace("/", "."): x
        for index, (path, x) in enumerate(leaves)
    }
