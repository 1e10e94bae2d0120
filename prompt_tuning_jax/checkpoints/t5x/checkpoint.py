"""A T5X checkpoint on disk, of either kind: what it is, which leaves it has, what they hold."""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prompt_tuning_jax.checkpoints.stored_array import StoredArray
from prompt_tuning_jax.checkpoints.t5x import legacy as t5x_legacy
from prompt_tuning_jax.checkpoints.t5x import orbax as t5x_orbax
from prompt_tuning_jax.checkpoints.t5x.storage import Storage, is_url, open_leaves
from prompt_tuning_jax.params import is_prompt

TARGET = "target/"
STEP = "state/step"
_STEP_DIRECTORY = re.compile(r"checkpoint_(\d+)")
# What T5X and Orbax call a directory until it is complete.
_UNFINISHED = re.compile(r".*(\.tmp-|\.orbax-checkpoint-tmp).*")
_INNER_METADATA = f"{t5x_orbax.STATE}/{t5x_orbax.METADATA}"
_LEGACY_ARRAYS = TARGET.replace("/", ".")
_OTHERS = {
    "config.json": "a Hugging Face model",
    "prompt.safetensors": "a prompt of this library",
    "_sharding": "the inside of an Orbax checkpoint",
}


class UnfinishedError(ValueError):
    """A checkpoint whose writing was interrupted."""


@dataclass(frozen=True)
class T5XCheckpoint:
    """A checkpoint's leaves by name; nothing but its index has been read.

    Attributes:
      path: its directory.
      kind: "legacy" (msgpack and zarr) or "orbax".
      sources: name, such as `target/encoder/...`, -> where its array lies, or its values, or
        None for a leaf that is None.
    """

    path: str
    kind: str
    sources: Mapping[str, Any]

    def leaves(self, prefix: str = TARGET) -> dict[str, StoredArray]:
        """The leaves under a prefix, without it; those that are None are left out."""
        chosen = {
            name.removeprefix(prefix): source
            for name, source in sorted(self.sources.items())
            if name.startswith(prefix) and source is not None
        }
        return open_leaves(self.path, chosen)

    def leaf(self, name: str) -> StoredArray:
        """One leaf; `target/` may be left out.

        Raises:
          ValueError: there is none of this name, or it is None.
        """
        name = name.strip("/")
        name = name if name in self.sources else TARGET + name
        if self.sources.get(name) is None:
            nearest = [n for n in self.sources if n.rsplit("/", 2)[-2:] == name.rsplit("/", 2)[-2:]]
            hint = (
                f" Perhaps {nearest[0]}?"
                if nearest
                else " `prompt-tuning checkpoint list` shows its leaves."
            )
            raise ValueError(f"{self.path} has no leaf {name}.{hint}")
        return open_leaves(self.path, {name: self.sources[name]})[name]

    @property
    def step(self) -> int | None:
        """The step it was written at; None where it does not say."""
        if self.sources.get(STEP) is None:
            return None
        return int(np.asarray(self.leaf(STEP)))


def is_checkpoint(path: str | os.PathLike) -> bool:
    """Whether a path is, by its looks, a T5X checkpoint or a directory of them."""
    if is_url(path):
        return True
    path = Path(path).expanduser()
    marks = (t5x_legacy.INDEX, t5x_orbax.METADATA, t5x_orbax.STEP_METADATA, _INNER_METADATA)
    if any((path / mark).is_file() for mark in marks):
        return True
    return any(any(path.glob(pattern)) for pattern in ("checkpoint_[0-9]*", f"{_LEGACY_ARRAYS}*"))


def open_checkpoint(path: str | os.PathLike) -> T5XCheckpoint:
    """Opens a checkpoint's directory, or the latest complete one in a run's directory.

    Args:
      path: local, or any URL that tensorstore reads, such as `gs://bucket/t5/checkpoint_1100000`.

    Raises:
      FileNotFoundError: there is nothing at this path.
      ValueError: what is there is not a T5X checkpoint, or is unfinished, cut short, or of a
        version not known; the message says which.
    """
    storage = Storage(path)
    if _UNFINISHED.fullmatch(storage.basename):
        raise UnfinishedError(
            f"{storage.name} was never finished: its name is the one a checkpoint has while it is "
            "written. Use a finished one beside it; this one can be deleted."
        )
    found = _open_here(storage)
    if found is not None:
        return found
    children = storage.children()
    steps = sorted(int(m[1]) for c in children if (m := _STEP_DIRECTORY.fullmatch(c)))
    for step in reversed(steps):
        checkpoint = storage / f"checkpoint_{step}"
        try:
            if (found := _open_here(checkpoint)) is not None:
                return found
            logging.warning("%s is no complete checkpoint: trying the one before.", checkpoint.name)
        except UnfinishedError as error:
            logging.warning("%s Trying the one before.", error)
    raise _nothing_here(storage, children)


def read_prompt(path: str | os.PathLike) -> np.ndarray:
    """The prompt in a checkpoint, [P, D], as it is stored.

    Raises:
      FileNotFoundError, ValueError: as `open_checkpoint`; or it holds no prompt, or several.
    """
    checkpoint = open_checkpoint(path)
    names = prompt_names(checkpoint)
    if not names:
        raise ValueError(
            f"{checkpoint.path} holds no prompt; `prompt-tuning checkpoint list` shows its leaves."
        )
    if len(names) > 1:
        raise ValueError(
            f"{checkpoint.path} holds several prompts ({', '.join(names)}). Take one out, with "
            f"`prompt-tuning checkpoint extract {checkpoint.path} {names[0]} prompt.npy`, and pass "
            "prompt.npy."
        )
    return checkpoint.leaf(names[0]).read()


def prompt_names(checkpoint: T5XCheckpoint) -> list[str]:
    """The names of a checkpoint's prompts: `encoder/prompt/prompt`, or as other libraries nest it.

    The reference implementation has `encoder/prompt/prompt/prompt`.
    """
    names = (n.removeprefix(TARGET) for n in checkpoint.sources if n.startswith(TARGET))
    return sorted(name for name in names if is_prompt(name))


def _open_here(storage: Storage) -> T5XCheckpoint | None:
    if storage.read(t5x_legacy.INDEX) is not None:
        return T5XCheckpoint(storage.name, "legacy", t5x_legacy.read_index(storage))
    if storage.read(t5x_orbax.METADATA) is not None:
        return T5XCheckpoint(storage.name, "orbax", t5x_orbax.read_index(storage))
    state = storage / t5x_orbax.STATE
    has_state = state.read(t5x_orbax.METADATA) is not None
    if not has_state and storage.read(t5x_orbax.STEP_METADATA) is None:
        return None
    if not t5x_orbax.is_committed(storage):
        raise UnfinishedError(
            f"{storage.name} was never finished: it has no {t5x_orbax.COMMITTED} and no time of "
            "commit. Use another checkpoint of that run; this one can be deleted."
        )
    return T5XCheckpoint(storage.name, "orbax", t5x_orbax.read_index(state))


def _nothing_here(storage: Storage, children: list[str]) -> Exception:
    """The error that says what was found instead of a checkpoint."""
    if not storage.remote and os.path.isfile(storage.name):
        return ValueError(
            f"{storage.name} is a file; a T5X checkpoint is a directory, such as checkpoint_1000: "
            "pass that."
        )
    if not children:
        return FileNotFoundError(
            f"There is nothing at {storage.name}, or it is empty: check the path."
        )
    unfinished = [name for name in children if _UNFINISHED.fullmatch(name)]
    if unfinished:
        return UnfinishedError(
            f"{storage.name} holds no complete checkpoint, only unfinished ones: "
            f"{', '.join(unfinished[:3])}."
        )
    what = [kind for name, kind in _OTHERS.items() if name in children]
    if any(name.endswith(".index") for name in children):
        what.append("a TensorFlow checkpoint, which T5X's scripts/convert_tf_checkpoint converts")
    if any(name.startswith(_LEGACY_ARRAYS) for name in children):
        what.append(f"a legacy T5X checkpoint without its {t5x_legacy.INDEX} file: copy it again")
    looks_like = f"; it looks like {what[0]}" if what else ""
    return ValueError(
        f"{storage.name} is not a T5X checkpoint: neither a file {t5x_legacy.INDEX!r} nor "
        f"{_INNER_METADATA} is there, but {', '.join(children[:6])}"
        f"{', ...' if len(children) > 6 else ''}{looks_like}."
    )
