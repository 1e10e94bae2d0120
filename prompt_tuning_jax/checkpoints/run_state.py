"""The state of a run, for resuming: what trains, its optimizer state, step and data position.

The frozen model is never written. A save is asynchronous and atomic: Orbax writes beside the last
complete state and renames, so a run killed at any moment resumes from a whole one.
"""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import orbax.checkpoint as ocp

from prompt_tuning_jax.checkpoints.atomic import is_of_a_disk, write_error
from prompt_tuning_jax.errors import spelled

DIRECTORY = "state"
# What a run's trainer records of where it stands.
_KINDS = {"data": dict, "history": list, "best": dict, "runs": dict}
# How Orbax begins what it logs of errors that it raises as well.
_RAISED = ("[process=", "Failed to write metadata=")
SHOWN = 4  # differences that an error names
REMOVALS = 10  # of what a failed save left, into which its threads may still be writing


class Digest(Protocol):
    """What a run reads, as a part of its identity: it is compared with what it was."""

    def facts(self) -> Any:
        """What is saved, as JSON values."""

    def difference(self, before: Any) -> str | None:
        """What has changed since it had the facts `before`, in words; None if nothing has."""


def is_saved(model_dir: str | Path) -> bool:
    """Whether a run in this directory has a state to go on from."""
    places = (Path(model_dir) / DIRECTORY).glob("*")
    return any(place.name.isdecimal() for place in places)


class RunState:
    """Saves and restores the state of one run under `model_dir/state`.

    Args:
      identity: what makes two runs the same run, setting -> value or `Digest`; another run's state
        is refused, with what differs.
      shown: how an error calls a key of the identity.
      usual: what a key of the identity was where a state does not say it, since it was saved before
        there was such a setting.
    """

    def __init__(
        self,
        model_dir: str | Path,
        identity: Mapping[str, Any],
        keep: int = 2,
        shown: Callable[[str], str] = str,
        usual: Callable[[str], Any] = lambda _: None,
    ):
        logging.getLogger("absl").addFilter(_is_not_raised)
        self._shown, self._usual = shown, usual
        self._directory = Path(model_dir).absolute() / DIRECTORY
        self._digests = {k: x for k, x in identity.items() if hasattr(x, "difference")}
        plain = {k: x for k, x in identity.items() if k not in self._digests}
        self._identity = _plain(plain)
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, cleanup_tmp_directories=True
            ),
            item_names=("arrays", "meta"),
        )
        if self._digests and self.latest_step() is None:
            self._take_facts()

    def latest_step(self) -> int | None:
        """The last complete step, or None for a fresh run."""
        return self._manager.latest_step()

    def restore(self, step: int, arrays: Any) -> tuple[Any, dict[str, Any]]:
        """The arrays, structured and placed as `arrays` are, and what came with them.

        Raises:
          ValueError: the state is another run's, or another optimizer's.
        """
        meta = self._read_meta(step)
        self._check_identity(meta.pop("identity"))
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _by_name(arrays))
        try:
            restored = self._manager.restore(
                step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(target))
            ).arrays
        except ValueError as error:
            raise ValueError(
                f"{self._directory / str(step)} does not fit this run: it was saved with another "
                f"optimizer, or is damaged. Set {spelled('trainable')} back, or choose another "
                f"{spelled('model_dir')}."
            ) from error
        leaves = [restored[name] for name in target]
        return jax.tree.unflatten(jax.tree.structure(arrays), leaves), meta

    def _read_meta(self, step: int) -> dict[str, Any]:
        try:
            composite = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = self._manager.restore(step, args=composite).meta
        except Exception as error:  # whatever JSON's reader or the disk says
            raise self._damaged(step, " ".join(str(error).split())[:200]) from error
        if not isinstance(meta, dict) or not isinstance(meta.get("identity"), dict):
            raise self._damaged(step, "its record does not say whose state it is")
        for name, kind in _KINDS.items():
            if not isinstance(meta.get(name), kind | None):
                raise self._damaged(step, f"its record has {name} {meta[name]!r}")
        return meta

    def _damaged(self, step: int, reason: str) -> ValueError:
        return ValueError(
            f"{self._directory / str(step)} is damaged ({reason}). Delete it, to continue from the "
            f"state before it, or choose another {spelled('model_dir')}."
        )

    def save(self, step: int, arrays: Any, **meta: Any) -> None:
        """Starts writing a state; returns as soon as the arrays are copied to the host."""
        meta = {"identity": self._identity, **meta}
        with self._naming():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(_by_name(arrays)), meta=ocp.args.JsonSave(meta)
                ),
                force=True,
            )

    def close(self) -> None:
        """Waits for writes under way.

        Raises:
          WriteError: one of them failed; the states before it are whole.
        """
        with self._naming():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """What Orbax says of a full or vanished disk, in many ways, names the directory."""
        try:
            yield
        except Exception as error:
            with contextlib.suppress(Exception):
                self._manager.wait_until_finished()
            self._remove_half_written()
            if not is_of_a_disk(error):
                raise
            raise write_error(self._directory, error) from error

    def _remove_half_written(self) -> None:
        """Removes what no save completed; what is being written yet goes with the next start."""
        for _ in range(REMOVALS):
            halves = list(self._directory.glob("*.orbax-checkpoint-tmp"))
            for half in halves:
                shutil.rmtree(half, ignore_errors=True)
            if not halves:
                return
            time.sleep(0.02)

    def _take_facts(self) -> None:
        """From here on, what is read is what this run has read from its beginning."""
        self._identity |= {name: digest.facts() for name, digest in self._digests.items()}

    def _check_identity(self, saved: Mapping[str, Any]) -> None:
        mine, changes = self._identity, []
        saved = _plain({name: self._usual(name) for name in mine}) | saved
        for name, digest in self._digests.items():
            # Earlier versions saved none.
            if name in saved and (change := digest.difference(saved[name])):
                changes.append(f"{name.rpartition(': ')[0]}{': ' if ': ' in name else ''}{change}")
        changes += [
            f"{self._shown(name)} was {saved.get(name)!r}, now {mine.get(name)!r}"
            for name in dict.fromkeys([*mine, *saved])
            if name not in self._digests and saved.get(name) != mine.get(name)
        ]
        if changes:
            others = f"; {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
            raise ValueError(
                f"{self._directory.parent} holds another run ({'; '.join(changes[:SHOWN])}"
                f"{others}): set it back to continue that run, or choose another "
                f"{spelled('model_dir')}."
            )
        self._take_facts()


def _is_not_raised(record: logging.LogRecord) -> bool:
    """Leaves out what Orbax logs of an error in one of its threads, which is raised later."""
    return not (record.exc_info and record.getMessage().startswith(_RAISED))


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """As it is read back from JSON."""
    return json.loads(json.dumps(identity, default=_as_json))


def _as_json(value: Any) -> Any:
    """Of what JSON does not know: mappings as objects, the rest (paths) as text."""
    return dict(value) if isinstance(value, Mapping) else str(value)


def _by_name(arrays: Any) -> dict[str, Any]:
    """Leaves in tree order, each under a name that sorts in that order and says what it is."""
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {
        f"{index:04d} {jax.tree_util.keystr(path, simple=True, separator='.')}".replace("/", "."): x
        for index, (path, x) in enumerate(leaves)
    }
