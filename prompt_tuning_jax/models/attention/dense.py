"""Attention with all its scores in memory: what the other forms equal, to rounding.

B batch   H heads   L queries   S keys   K head dim
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_tuning_jax.models.attention.bias import Bias
from prompt_tuning_jax.models.attention.softmax import softmax


def attend(
    q_BxHxLxK: Float[Array, "B H L K"],
    k_BxHxSxK: Float[Array, "B H S K"],
    v_BxHxSxK: Float[Array, "B H S K"],
    bias: Bias,
) -> Float[Array, "B H L K"]:
    """softmax(q k' + bias) v. T5 does not divide the scores by sqrt(K)."""
    scores_BxHxLxS = jnp.einsum(
        "bhlk,bhsk->bhls", q_BxHxLxK, k_BxHxSxK, preferred_element_type=jnp.float32
    )
    weights_BxHxLxS = weights(scores_BxHxLxS, bias, q_BxHxLxK.dtype)
    return jnp.einsum("bhls,bhsk->bhlk", weights_BxHxLxS, v_BxHxSxK)


def weights(
    scores_BxHxLxS: Float[Array, "B H L S"], bias: Bias, dtype: Any
) -> Float[Array, "B H L S"]:
    """Softmax in float32, cast to the activations' dtype."""
    scores_BxHxLxS = scores_BxHxLxS.astype(jnp.float32) + bias.mask
    if bias.distances is not None:
        scores_BxHxLxS += bias.distances
    return softmax(scores_BxHxLxS).astype(dtype)
