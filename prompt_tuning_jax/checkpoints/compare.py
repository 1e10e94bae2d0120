"""Which arrays of two models differ, and by how much."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from prompt_tuning_jax.checkpoints import huggingface, t5x
from prompt_tuning_jax.checkpoints.stored_array import StoredArray
from prompt_tuning_jax.checkpoints.t5x.checkpoint import TARGET, is_checkpoint, open_checkpoint
from prompt_tuning_jax.checkpoints.t5x.weights import is_scanned
from prompt_tuning_jax.errors import spelled

_Arrays = Mapping[str, StoredArray]


class Difference(NamedTuple):
    """How a leaf differs: its state, and the largest and the mean absolute difference."""

    name: str
    state: str
    largest: float = 0.0
    mean: float = 0.0


def compare_models(
    a: str, b: str, everything: bool = False, tolerance: float = 0.0
) -> tuple[list[Difference], int]:
    """The leaves that differ between two models, and how many leaves were compared.

    Either is a T5X checkpoint or a Hugging Face directory. Two T5X checkpoints of one layout are
    compared leaf by leaf as stored; otherwise weights are, under T5X's names. Of each model one
    array is in memory at a time.

    Args:
      everything: compare the optimizer's state too; T5X checkpoints only.
      tolerance: the absolute difference up to which values count as equal.
    """
    ours, theirs = _comparable(a, b, everything)
    names = sorted({*ours, *theirs})
    found = [_difference(n, ours.get(n), theirs.get(n), tolerance) for n in names]
    return [each for each in found if each is not None], len(names)


def _comparable(a: str, b: str, everything: bool) -> tuple[_Arrays, _Arrays]:
    if is_checkpoint(a) and is_checkpoint(b):
        prefix = "" if everything else TARGET
        ours, theirs = open_checkpoint(a).leaves(prefix), open_checkpoint(b).leaves(prefix)
        if everything or is_scanned(ours) == is_scanned(theirs):
            return ours, theirs
    elif everything:
        raise ValueError(
            f"Only T5X checkpoints hold an optimizer's state: leave out {spelled('everything')}, "
            "or compare two of them."
        )
    return _weights(a), _weights(b)


def _weights(path: str) -> _Arrays:
    if is_checkpoint(path):
        return t5x.load_lazily(path)[1]
    return huggingface.load_lazily(path)[1]


def _difference(
    name: str, ours: StoredArray | None, theirs: StoredArray | None, tolerance: float
) -> Difference | None:
    if ours is None or theirs is None:
        return Difference(name, f"only in {'B' if ours is None else 'A'}")
    if ours.shape != theirs.shape:
        return Difference(name, f"shape {list(ours.shape)} | {list(theirs.shape)}")
    common = np.result_type(np.float32, ours.dtype, theirs.dtype)
    a, b = (np.asarray(x).astype(common) for x in (ours, theirs))
    with np.errstate(invalid="ignore"):  # infinity less infinity
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
    if apart.size == 0 or apart.max() <= tolerance:
        return None
    return Difference(name, "differs", float(apart.max()), float(apart.mean()))
