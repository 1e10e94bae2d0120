"""The methods by name, and which leaves of a parameter tree are theirs."""

from collections.abc import Mapping

import jax

from prompt_tuning_jax.methods.adapters import bitfit, decoder_prompt, ia3, lora, prefix
from prompt_tuning_jax.methods.adapters.method import Method, Options, Shapes
from prompt_tuning_jax.params import FlatParams

METHODS: Mapping[str, Method] = {
    "lora": lora,
    "ia3": ia3,
    "prefix": prefix,
    "bitfit": bitfit,
    "decoder_prompt": decoder_prompt,
}
NAMES = tuple(METHODS)
_LEAVES = {leaf for method in METHODS.values() for leaf in (*method.TRAINABLE, *method.FROZEN)}


def start(name: str, key: jax.Array, shapes: Shapes, options: Options) -> FlatParams:
    """The method's leaves, as they begin, by their flat names.

    Args:
      name: one of `NAMES`.
      shapes: of the network's weights, flat.
    """
    return METHODS[name].start(key, shapes, options)


def trainable_pattern(name: str) -> str:
    """A regular expression for the names of the leaves that train."""
    return f".*/(?:{'|'.join(METHODS[name].TRAINABLE)})"


def is_leaf(name: str) -> bool:
    """Whether a parameter is a method's, by its flat name."""
    return name.rpartition("/")[2] in _LEAVES


def leaves_of(flat: FlatParams) -> FlatParams:
    """Those parameters that are a method's."""
    return {name: x for name, x in flat.items() if is_leaf(name)}


def without_leaves(flat: FlatParams) -> FlatParams:
    """The others."""
    return {name: x for name, x in flat.items() if not is_leaf(name)}
