"""Attention with all its scores in memory: what the other forms equal, to rounding.

B batch   H heads   G heads of keys, which divide H   R = H / G   L queries   S keys   K head dim
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_tuning_jax.models.attention.bias import Bias, capped
from prompt_tuning_jax.models.attention.softmax import softmax


def attend(
    q_BxHxLxK: Float[Array, "B H L K"],
    k_BxGxSxK: Float[Array, "B G S K"],
    v_BxGxSxK: Float[Array, "B G S K"],
    bias: Bias,
    cap: float | None = None,
) -> Float[Array, "B H L K"]:
    """softmax(cap(q k') + bias) v; R heads of queries in a row share one of keys."""
    (B, H, L, K), (G, S) = q_BxHxLxK.shape, k_BxGxSxK.shape[1:3]
    q_BxGxRLxK = q_BxHxLxK.reshape(B, G, -1, K)
    scores_BxGxRLxS = jnp.einsum(
        "bglk,bgsk->bgls", q_BxGxRLxK, k_BxGxSxK, preferred_element_type=jnp.float32
    )
    scores_BxHxLxS = capped(scores_BxGxRLxS, cap).reshape(B, H, L, S)
    weights_BxHxLxS = weights(scores_BxHxLxS, bias, q_BxHxLxK.dtype)
    heads_BxGxRLxK = jnp.einsum("bgls,bgsk->bglk", weights_BxHxLxS.reshape(B, G, -1, S), v_BxGxSxK)
    return heads_BxGxRLxK.reshape(B, H, L, K)


def weights(
    scores_BxHxLxS: Float[Array, "B H L S"], bias: Bias, dtype: Any
) -> Float[Array, "B H L S"]:
    """Softmax in float32, cast to the activations' dtype."""
    scores_BxHxLxS = scores_BxHxLxS.astype(jnp.float32) + bias.mask
    if bias.distances is not None:
        scores_BxHxLxS += bias.distances
    return softmax(scores_BxHxLxS).astype(dtype)
