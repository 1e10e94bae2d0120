"""The layers of both stacks: Gemma 2's, in the decoder with cross-attention before the MLP.

B batch   L queries   S encoder positions   D width of the stack   E of the encoder
H heads   G heads of keys and values   K head dim
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.models.causal.attention import (
    KeyValue,
    Kind,
    attend,
    project_heads,
    scaled_queries,
    split_heads,
)
from prompt_tuning_jax.models.causal.config import CausalConfig
from prompt_tuning_jax.models.causal.layers import Weights, mlp, norm, project
from prompt_tuning_jax.models.causal.network import dropout, each_layer, prefix_block

Window = int | Int[Array, ""] | None


class Text(NamedTuple):
    """What the decoder attends to.

    Attributes:
      encoded: the encoder's output; None where layers get what they make of it.
      seen: which of its positions each target attends to.
    """

    encoded: Float[Array, "B S E"] | None
    seen: Bool[Array, "B L S"]


class Cache(NamedTuple):
    """Where tokens join those before them.

    Attributes:
      index: how many there are.
      room: how many there may be.
    """

    index: Any
    room: int


class OfLayer(NamedTuple):
    """What a decoder's layer gets that is its own, where it runs many times.

    Attributes:
      text: what cross-attention makes of the encoding.
      cached: keys and values of the tokens before, where they are kept.
    """

    text: KeyValue
    cached: KeyValue | None


def block(
    config: CausalConfig,
    x_BxLxD: Float[Array, "B L D"],
    weights: Weights,
    kind: Kind,
    of_layer: OfLayer | None,
    key: Array | None,
    *,
    positions_BxL: Int[Array, "B L"],
    seen: Callable[[Window], Bool[Array, "B L _"]],
    text: Text | None,
    index: Any,
) -> tuple[Float[Array, "B L D"], KeyValue | None]:
    """A layer; each of its parts adds to its input what it makes of the normed input.

    Returns:
      (x after it, the cache with these tokens' keys and values if there is one).
    """
    cached = None if of_layer is None else of_layer.cached

    def added(x: Array, y: Array, name: str, number: int) -> Array:
        y = norm(config, y, weights[f"post_{name}_norm"])
        return x + dropout(config.dropout_rate, y, key, number)

    # Self-attention block.
    y_BxLxD = norm(config, x_BxLxD, weights["pre_attention_norm"])
    q_BxHxLxK, own = project_heads(config, y_BxLxD, weights["attention"], positions_BxL, kind)
    if cached is not None:
        own = cached = _joined(cached, own, index)
    blocks = [(own, seen(kind.window))]
    for prefix in prefix_block(config, weights["attention"]):
        shape = (1, x_BxLxD.shape[1], prefix.kv.keys.shape[2])
        blocks.insert(0, (prefix.kv, jnp.ones(shape, bool)))
    y_BxLxD = attend(config, q_BxHxLxK, blocks, weights["attention"])
    x_BxLxD = added(x_BxLxD, y_BxLxD, "attention", 0)

    # Cross-attention block: nothing is turned, and there is no window.
    if text is not None:
        cross = weights["cross_attention"]
        y_BxLxD = norm(config, x_BxLxD, weights["pre_cross_attention_norm"])
        q_BxHxLxK = split_heads(project(config, y_BxLxD, cross["query"]), config.num_heads)
        q_BxHxLxK = scaled_queries(config, q_BxHxLxK).astype(config.dtype)
        theirs = of_text(config, text.encoded, cross) if of_layer is None else of_layer.text
        y_BxLxD = attend(config, q_BxHxLxK, [(theirs, text.seen)], cross)
        x_BxLxD = added(x_BxLxD, y_BxLxD, "cross_attention", 1)

    # MLP block.
    y_BxLxD = norm(config, x_BxLxD, weights["pre_mlp_norm"])
    y_BxLxD = mlp(config, y_BxLxD, weights["mlp"])
    return added(x_BxLxD, y_BxLxD, "mlp", 2), cached


def through(
    config: CausalConfig,
    stack: Weights,
    x_BxLxD: Float[Array, "B L D"],
    positions_BxL: Int[Array, "B L"],
    seen: Callable[[Window], Bool[Array, "B L _"]],
    text: Text | None = None,
    index: Any = 0,
    per_layer: Any = None,
    dropout_rng: Array | None = None,
) -> tuple[Float[Array, "B L D"], Any]:
    """The layers of a stack, one after the other.

    Args:
      seen: a layer's window -> which positions each query attends to, of the stack's own.
      per_layer: an `OfLayer` for each or, scanned, one with a leading layer axis.

    Returns:
      (x after the last layer, what the layers cache, in the form of `per_layer`).
    """
    step = functools.partial(
        block, config, positions_BxL=positions_BxL, seen=seen, text=text, index=index
    )
    return each_layer(config, step, step, stack, x_BxLxD, per_layer, dropout_rng)


def of_text(
    config: CausalConfig, encoded_BxSxE: Float[Array, "B S E"], weights: Weights
) -> KeyValue:
    """A layer's cross-attention keys and values."""
    keys, values = (
        split_heads(project(config, encoded_BxSxE, weights[name]), config.num_kv_heads)
        for name in ("key", "value")
    )
    return KeyValue(keys, values)


def of_text_in_all(
    config: CausalConfig, stack: Weights, encoded_BxSxE: Float[Array, "B S E"]
) -> Any:
    """`of_text` of every layer: a tuple, or stacked where layers are scanned."""
    if config.scan_layers:
        cross = stack["layers"]["cross_attention"]
        return jax.lax.map(functools.partial(of_text, config, encoded_BxSxE), cross)
    return tuple(
        of_text(config, encoded_BxSxE, stack[f"layers_{i}"]["cross_attention"])
        for i in range(len(config.layers))
    )


def _joined(cached: KeyValue, own: KeyValue, index: Any) -> KeyValue:
    put = jax.lax.dynamic_update_slice_in_dim
    return KeyValue(*(put(old, x, index, axis=2) for old, x in zip(cached, own, strict=True)))
