"""Attention of a few queries at a time, so that few of the [L, S] scores are in memory at once.

B batch   H heads   L queries   S keys   K head dim   C queries of a chunk   M chunks
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.models.t5.attention_bias import Bias


def in_chunks(
    attend: Callable[[Array, Bias], Array],
    q_BxHxLxK: Float[Array, "B H L K"],
    bias: Bias,
    chunk: int,
) -> Float[Array, "B H L K"]:
    """`attend(q, bias)` of at most `chunk` queries at a time.

    The backward pass computes each chunk again, so that the scores of one chunk [B, H, C, S] are
    all that is ever in memory.
    """
    B, H, L, K = q_BxHxLxK.shape
    count = -(-L // chunk)
    size = -(-L // count)
    spare = ((0, 0), (0, 0), (0, count * size - L), (0, 0))
    q_BxHxMxCxK = jnp.pad(q_BxHxLxK, spare).reshape(B, H, count, size, K)
    bias = jax.tree.map(lambda x: x if x.shape[2] == 1 else jnp.pad(x, spare), bias)

    @jax.checkpoint
    def one(i, q_BxHxCxK):
        return attend(q_BxHxCxK, _of_queries(bias, i * size, size))

    heads_MxBxHxCxK = jax.lax.map(
        lambda each: one(*each), (jnp.arange(count), jnp.moveaxis(q_BxHxMxCxK, 2, 0))
    )
    return jnp.moveaxis(heads_MxBxHxCxK, 0, 2).reshape(B, H, count * size, K)[:, :, :L]


def _of_queries(bias: Bias, first: Int[Array, ""], count: int) -> Bias:
    """The bias of `count` queries from `first` on."""

    def part(x: Array | None) -> Array | None:
        if x is None or x.shape[2] == 1:  # the same for all queries
            return x
        return jax.lax.dynamic_slice_in_dim(x, first, count, axis=2)

    return Bias(part(bias.mask), part(bias.distances))
