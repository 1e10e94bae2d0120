"""The weights of a T5 among a T5X checkpoint's leaves, whatever its layout.

T5X stores a layer's weights under `encoder/layers_{i}/`, or, in its scalable (scanned) T5, all
layers stacked on axis 1 under `encoder/encoder/`, with attention heads kept apart:

    [D, J] or [D, L, H, K]   query, key, value      [J, D] or [H, L, K, D]   out
    [D, F] or [D, L, F]      mlp/wi                 [D]    or [D, L]         scales

L layers   D embed   H heads   K head dim   J = H * K   F mlp
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from prompt_tuning_jax.checkpoints.t5x.storage import Leaf
from prompt_tuning_jax.checkpoints.weight_check import Shape
from prompt_tuning_jax.models.t5.scan import AXIS, BIAS, STACKS

_SCANNED = re.compile(r"(encoder|decoder)/\1/(.+)")
LAYER = re.compile(r"(encoder|decoder)/layers_(\d+)/(.+)")
Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight of the model, and where in a leaf it lies.

    Attributes:
      leaf: the array stored.
      layer: which of the layers stacked in the leaf; None where the leaf is one layer's.
      joined: the first of the two stored dimensions that make one of the weight's (heads and
        head_dim); None where dimensions are the same.
      cast: the dtype it is read as; None for the one stored.
    """

    leaf: Leaf
    layer: int | None = None
    joined: int | None = None
    cast: Any = None

    @property
    def stored(self) -> Shape:
        """The shape stored for one layer."""
        shape = self.leaf.shape
        if self.layer is None:
            return shape
        return shape[:AXIS] + shape[AXIS + 1 :]

    @property
    def shape(self) -> Shape:
        return _join(self.stored, self.joined)

    @property
    def dtype(self) -> np.dtype:
        return self.leaf.dtype if self.cast is None else np.dtype(self.cast)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype=dtype)

    def read(self, bounds: Bounds | None = None, cache: dict | None = None) -> np.ndarray:
        """The values within bounds ((start, stop) of each dimension), or all.

        `cache` keeps what is read of the leaf: for the other layers stacked in it, and for the
        other devices that hold the same part.

        Raises:
          ValueError: the values are not floating-point, or not finite; or as `Leaf.read`.
        """
        bounds = bounds or tuple((0, size) for size in self.shape)
        cache = {} if cache is None else cache
        stored, trim = self._stored_bounds(bounds)
        index = [slice(*each) for each in stored]
        if self.layer is not None:
            index.insert(AXIS, slice(None))
        if stored not in cache:
            cache[stored] = _checked(self.leaf, self.leaf.read(tuple(index)))
        values = cache[stored]
        if self.layer is not None:
            values = values.take(self.layer, axis=AXIS)
        return values.reshape(_join(values.shape, self.joined))[trim].astype(self.dtype, copy=False)

    def _stored_bounds(self, bounds: Bounds) -> tuple[Bounds, tuple[slice, ...]]:
        """The bounds to read in the leaf, and what to cut off once heads are joined."""
        trim = [slice(None)] * len(bounds)
        if self.joined is None:
            return bounds, tuple(trim)
        width = self.stored[self.joined + 1]
        start, stop = bounds[self.joined]
        first, last = start // width, -(-stop // width)
        trim[self.joined] = slice(start - first * width, stop - first * width)
        pair = ((first, last), (0, width))
        return (*bounds[: self.joined], *pair, *bounds[self.joined + 1 :]), tuple(trim)


def _join(shape: Shape, joined: int | None) -> Shape:
    if joined is None:
        return shape
    return (*shape[:joined], shape[joined] * shape[joined + 1], *shape[joined + 2 :])


def _checked(leaf: Leaf, values: np.ndarray) -> np.ndarray:
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"{leaf.place}: {leaf.name} is {values.dtype}; only floating-point weights are read."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"{leaf.place}: {leaf.name} holds NaN or infinite values. Use another checkpoint."
        )
    return values


def find_weights(leaves: Mapping[str, Leaf], dtype: Any = None) -> dict[str, Weight]:
    """The leaves as weights under the names of a T5 whose layers stand apart.

    Args:
      dtype: what the weights are read as; None for what is stored.

    Raises:
      ValueError: each layer has a relative-position bias of its own, and they differ.
    """
    weights: dict[str, Weight] = {}
    for name, leaf in leaves.items():
        if match := _SCANNED.fullmatch(name):
            stack, rest = match.groups()
            for layer in range(leaf.shape[AXIS]):
                weights[f"{stack}/layers_{layer}/{rest}"] = _weight(rest, leaf, layer)
        else:
            match = LAYER.fullmatch(name)
            weights[name] = _weight(match[3], leaf, None) if match else Weight(leaf)
    for stack in STACKS:
        _share_bias(stack, weights)
    return {name: replace(weight, cast=dtype) for name, weight in weights.items()}


def _weight(name: str, leaf: Leaf, layer: int | None) -> Weight:
    split = len(leaf.shape) - (layer is not None) == 3 and "attention/" in name
    joined = (0 if name.endswith("out/kernel") else 1) if split else None
    return Weight(leaf, layer, joined)


def _share_bias(stack: str, weights: dict[str, Weight]) -> None:
    """Replaces equal biases of all layers by one of the stack."""
    own = sorted(n for n in weights if (m := LAYER.fullmatch(n)) and m[1] == stack and m[3] == BIAS)
    if not own:
        return
    caches: dict[int, dict] = {}
    biases = [weights[n].read(cache=caches.setdefault(id(weights[n].leaf), {})) for n in own]
    differing = [n for n, bias in zip(own, biases, strict=True) if (bias != biases[0]).any()]
    if differing:
        raise ValueError(
            f"{weights[own[0]].leaf.place}: the {stack}'s layers have relative-position biases of "
            f"their own, and {differing[0]} differs from {own[0]}. This T5, like the published "
            "ones, has one bias for all layers of a stack, so the checkpoint cannot be converted "
            "to it without changing the model."
        )
    weights[f"{stack}/{BIAS}"] = weights[own[0]]
    for name in own:
        del weights[name]


def by_leaf(weights: Mapping[str, Weight]) -> list[list[str]]:
    """The names of the weights, those that lie in one leaf together."""
    groups: dict[int, list[str]] = {}
    for name, weight in weights.items():
        groups.setdefault(id(weight.leaf), []).append(name)
    return list(groups.values())


def is_scanned(names: Iterable[str]) -> bool:
    """Whether layers are stacked, as in T5X's scalable T5."""
    return any(_SCANNED.fullmatch(name) for name in names)
