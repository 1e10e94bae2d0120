"""The weights of a T5 among a T5X checkpoint's leaves, whatever its layout.

T5X stores a layer's weights under `encoder/layers_{i}/`, or, in its scalable (scanned) T5, all
layers stacked on axis 1 under `encoder/encoder/`, with attention heads kept apart:

    [D, J] or [D, L, H, K]   query, key, value      [J, D] or [H, L, K, D]   out
    [D, F] or [D, L, F]      mlp/wi                 [D]    or [D, L]         scales

L layers   D embed   H heads   K head dim   J = H * K   F mlp
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from prompt_tuning_jax.checkpoints.stored_array import Cache, StoredArray
from prompt_tuning_jax.models.t5.scan import BIAS, STACKS, T5X_AXIS

_SCANNED = re.compile(r"(encoder|decoder)/\1/(.+)")
LAYER = re.compile(r"(encoder|decoder)/layers_(\d+)/(.+)")


def find_weights(leaves: Mapping[str, StoredArray], dtype: Any = None) -> dict[str, StoredArray]:
    """The leaves as weights under the names of a T5 whose layers stand apart.

    Args:
      dtype: what the weights are read as; None for what is stored.

    Scanned layers have relative-position biases of their own; where all are equal, one of the stack
    stands for them.
    """
    weights: dict[str, StoredArray] = {}
    for name, leaf in leaves.items():
        if match := _SCANNED.fullmatch(name):
            stack, rest = match.groups()
            for layer in range(leaf.shape[T5X_AXIS]):
                one = _with_heads_joined(rest, leaf.layer(layer, T5X_AXIS))
                weights[f"{stack}/layers_{layer}/{rest}"] = one
        else:
            weights[name] = _with_heads_joined(name, leaf) if LAYER.fullmatch(name) else leaf
    own = {stack: _own_biases(stack, weights) for stack in STACKS}
    if all(_all_equal([weights[n] for n in names]) for names in own.values()):
        for stack, names in own.items():
            weights |= {f"{stack}/{BIAS}": weights[name] for name in names[:1]}
            for name in names:
                del weights[name]
    return {name: weight.as_floats(dtype) for name, weight in weights.items()}


def _with_heads_joined(name: str, weight: StoredArray) -> StoredArray:
    """A layer's weight as this library has it, where heads may be stored apart."""
    if len(weight.shape) != 3 or "attention/" not in name:
        return weight
    return weight.joined(0 if name.endswith("out/kernel") else 1)


def _own_biases(stack: str, weights: Mapping[str, StoredArray]) -> list[str]:
    """The names of the biases that a stack's layers have of their own."""
    return sorted(
        n for n in weights if (m := LAYER.fullmatch(n)) and m[1] == stack and m[3] == BIAS
    )


def _all_equal(biases: list[StoredArray]) -> bool:
    cache: Cache = {}
    values = [bias.as_floats().read(cache=cache) for bias in biases]
    return all(np.array_equal(each, values[0]) for each in values)


def is_scanned(names: Iterable[str]) -> bool:
    """Whether layers are stacked, as in T5X's scalable T5."""
    return any(_SCANNED.fullmatch(name) for name in names)
