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

from prompt_tuning_jax.checkpoints.stored_array import Cache, StoredArray
from prompt_tuning_jax.models.t5.scan import AXIS, BIAS, STACKS

_SCANNED = re.compile(r"(encoder|decoder)/\1/(.+)")
LAYER = re.compile(r"(encoder|decoder)/layers_(\d+)/(.+)")


def find_weights(leaves: Mapping[str, StoredArray], dtype: Any = None) -> dict[str, StoredArray]:
    """The leaves as weights under the names of a T5 whose layers stand apart.

    Args:
      dtype: what the weights are read as; None for what is stored.

    Raises:
      ValueError: each layer has a relative-position bias of its own, and they differ.
    """
    weights: dict[str, StoredArray] = {}
    for name, leaf in leaves.items():
        if match := _SCANNED.fullmatch(name):
            stack, rest = match.groups()
            for layer in range(leaf.shape[AXIS]):
                one = _with_heads_joined(rest, leaf.layer(layer, AXIS))
                weights[f"{stack}/layers_{layer}/{rest}"] = one
        else:
            weights[name] = _with_heads_joined(name, leaf) if LAYER.fullmatch(name) else leaf
    for stack in STACKS:
        _share_bias(stack, weights)
    return {name: weight.as_floats(dtype) for name, weight in weights.items()}


def _with_heads_joined(name: str, weight: StoredArray) -> StoredArray:
    """A layer's weight as this library has it, where heads may be stored apart."""
    if len(weight.shape) != 3 or "attention/" not in name:
        return weight
    return weight.joined(0 if name.endswith("out/kernel") else 1)


def _share_bias(stack: str, weights: dict[str, StoredArray]) -> None:
    """Replaces equal biases of all layers by one of the stack."""
    own = sorted(n for n in weights if (m := LAYER.fullmatch(n)) and m[1] == stack and m[3] == BIAS)
    if not own:
        return
    cache: Cache = {}
    biases = [weights[n].as_floats().read(cache=cache) for n in own]
    differing = [n for n, bias in zip(own, biases, strict=True) if (bias != biases[0]).any()]
    if differing:
        raise ValueError(
            f"{weights[own[0]].place}: the {stack}'s layers have relative-position biases of "
            f"their own, and {differing[0]} differs from {own[0]}. This T5, like the published "
            "ones, has one bias for all layers of a stack, so the checkpoint cannot be converted "
            "to it without changing the model."
        )
    weights[f"{stack}/{BIAS}"] = weights[own[0]]
    for name in own:
        del weights[name]


def is_scanned(names: Iterable[str]) -> bool:
    """Whether layers are stacked, as in T5X's scalable T5."""
    return any(_SCANNED.fullmatch(name) for name in names)
