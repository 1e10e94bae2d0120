"""The softmax of attention's scores, with a gradient that needs less memory.

B batch   H heads   L target length   S joined length
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def softmax(scores_BxHxLxS: Float[Array, "B H L S"]) -> Float[Array, "B H L S"]:
    """`jax.nn.softmax` over the keys.

    Only the weights are kept for the backward pass; jax.nn.softmax keeps two arrays of this size.
    """
    return jax.nn.softmax(scores_BxHxLxS, axis=-1)


@softmax.defjvp
def _softmax_jvp(primals, tangents):
    weights, (change,) = softmax(*primals), tangents
    return weights, weights * (change - jnp.sum(weights * change, axis=-1, keepdims=True))
