"""Attention of a few queries at a time, so that few of the [L, S] scores are in memory at once.

B batch   H heads   G heads of keys   L queries   S keys   K head dim   C queries of a chunk
M chunks
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.models.attention import dense
from prompt_tuning_jax.models.attention.bias import Bias


def attend(
    q_BxHxLxK: Float[Array, "B H L K"],
    k_BxGxSxK: Float[Array, "B G S K"],
    v_BxGxSxK: Float[Array, "B G S K"],
    bias: Bias,
    chunk: int,
    cap: float | None = None,
) -> Float[Array, "B H L K"]:
    """`dense.attend` of at most `chunk` queries at a time.

    The backward pass computes each chunk again, so that the scores of one chunk [B, H, C, S] are
    all that is ever in memory.
    """
    B, H, L, K = q_BxHxLxK.shape
    count = -(-L // chunk)
    size = -(-L // count)
    spare = ((0, 0), (0, 0), (0, count * size - L), (0, 0))
    q_BxHxMxCxK = jnp.pad(q_BxHxLxK, spare).reshape(B, H, count, size, K)
    terms = bias.mask, bias.distances
    terms = jax.tree.map(lambda x: x if x.shape[2] == 1 else jnp.pad(x, spare), terms)

    @jax.checkpoint
    def one(i, q_BxHxCxK):
        of_queries = Bias(*(_of_queries(term, i * size, size) for term in terms))
        return dense.attend(q_BxHxCxK, k_BxGxSxK, v_BxGxSxK, of_queries, cap)

    heads_MxBxHxCxK = jax.lax.map(
        lambda each: one(*each), (jnp.arange(count), jnp.moveaxis(q_BxHxMxCxK, 2, 0))
    )
    return jnp.moveaxis(heads_MxBxHxCxK, 0, 2).reshape(B, H, count * size, K)[:, :, :L]


def _of_queries(term: Array | None, first: Int[Array, ""], count: int) -> Array | None:
    """What `count` queries from `first` on have of a term of the bias."""
    if term is None or term.shape[2] == 1:  # the same for all queries
        return term
    return jax.lax.dynamic_slice_in_dim(term, first, count, axis=2)
