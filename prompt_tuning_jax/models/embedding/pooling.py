"""One vector of many: what becomes of the positions that count.

B batch   S joined length   D embed
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def pooled(
    mode: str,
    x_BxSxD: Float[Array, "B S D"],
    counted_BxS: Bool[Array, "B S"],
    attended_BxS: Bool[Array, "B S"],
) -> Float[Array, "B D"]:
    """The vector of each row, float32, as sentence-transformers pools.

    Args:
      mode: one of `config.POOLINGS`: "cls" and "lasttoken" are the first and the last position that
        counts, "weightedmean" weighs each by its number among those attended to, from 1.
      counted: the positions that count. A row where none does has a vector of zeros.
      attended: those that are no padding.
    """
    x_BxSxD = x_BxSxD.astype(jnp.float32)
    S = counted_BxS.shape[1]
    if mode == "cls":
        return _at(x_BxSxD, jnp.argmax(counted_BxS, axis=1), counted_BxS)
    if mode == "lasttoken":
        last_B = S - 1 - jnp.argmax(counted_BxS[:, ::-1], axis=1)
        return _at(x_BxSxD, last_B, counted_BxS)
    if mode == "max":
        x_BxSxD = jnp.where(counted_BxS[:, :, None], x_BxSxD, -jnp.inf)
        highest_BxD = jnp.max(x_BxSxD, axis=1)
        return jnp.where(jnp.any(counted_BxS, axis=1)[:, None], highest_BxD, 0.0)
    weight_BxS = counted_BxS.astype(jnp.float32)
    if mode == "weightedmean":
        weight_BxS = weight_BxS * jnp.cumsum(attended_BxS, axis=1).astype(jnp.float32)
    total_Bx1 = jnp.maximum(jnp.sum(weight_BxS, axis=1, keepdims=True), 1e-9)
    if mode == "mean_sqrt_len_tokens":
        total_Bx1 = jnp.sqrt(total_Bx1)
    return jnp.einsum("bsd,bs->bd", x_BxSxD, weight_BxS, precision="highest") / total_Bx1


def _at(
    x_BxSxD: Float[Array, "B S D"], place_B: Int[Array, " B"], counted_BxS: Bool[Array, "B S"]
) -> Float[Array, "B D"]:
    found_BxD = jnp.take_along_axis(x_BxSxD, place_B[:, None, None], axis=1)[:, 0]
    return jnp.where(jnp.any(counted_BxS, axis=1)[:, None], found_BxD, 0.0)
