"""Cross-attention that projects the targets instead of the encoder's output.

    q (x Wk)' = (q Wk') x'        w (x Wv) = (w x) Wv

Both sides are the same numbers. The left projects S positions to keys and values; the right
projects L queries to width D, which costs L/K of that, so it is cheaper where L is less than K.

B batch   S joined length   L target length   D embed   H heads   K head dim
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_tuning_jax.models.products import Weight, product, scaled


def attend(
    q_BxHxLxK: Float[Array, "B H L K"],
    encoded_BxSxD: Float[Array, "B S D"],
    *,
    key: Weight,
    value: Weight,
    to_weights: Callable[[Array], Array],
) -> Float[Array, "B H L K"]:
    """`to_weights(q (encoded key)') (encoded value)`, without making keys and values."""
    H = q_BxHxLxK.shape[1]
    key, value = _by_head(key, H), _by_head(value, H)
    q_BxHxLxD = product("bhlk,dhk->bhld", scaled(q_BxHxLxK, key.scale), key.values)
    scores_BxHxLxS = jnp.einsum(
        "bhld,bsd->bhls", q_BxHxLxD, encoded_BxSxD, preferred_element_type=jnp.float32
    )
    weights_BxHxLxS = to_weights(scores_BxHxLxS)
    mixed_BxHxLxD = jnp.einsum("bhls,bsd->bhld", weights_BxHxLxS, encoded_BxSxD)
    return scaled(product("bhld,dhk->bhlk", mixed_BxHxLxD, value.values), value.scale)


def _by_head(weight: Weight, heads: int) -> Weight:
    """An inward kernel [D, H*K] as [D, H, K], and its scale as [1, H, 1, K]."""
    values, scale = weight
    values = values.reshape(values.shape[0], heads, -1)
    return Weight(values, None if scale is None else scale.reshape(1, heads, 1, -1))
