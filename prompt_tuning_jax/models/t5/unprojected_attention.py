"""Cross-attention that projects the targets instead of the encoder's output.

    q (x Wk)' = (q Wk') x'        w (x Wv) = (w x) Wv

Both sides are the same numbers. The left projects S positions to keys and values; the right
projects L queries to width D, which costs L/K of that, so it is cheaper where L is less than K.
A bias is no product: kernels that an adapter gave one are left to the left side.

B batch   S joined length   L target length   D embed   H heads   K head dim   r rank
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
    q_BxHxLxD = _times_transposed(q_BxHxLxK, key)
    scores_BxHxLxS = jnp.einsum(
        "bhld,bsd->bhls", q_BxHxLxD, encoded_BxSxD, preferred_element_type=jnp.float32
    )
    weights_BxHxLxS = to_weights(scores_BxHxLxS)
    return _times(jnp.einsum("bhls,bsd->bhld", weights_BxHxLxS, encoded_BxSxD), value)


def can_attend(key: Weight, value: Weight) -> bool:
    """Whether the kernels are products and nothing else."""
    return all(each.change is None or each.change.bias is None for each in (key, value))


def _times_transposed(x_BxHxLxK: Array, weight: Weight) -> Float[Array, "B H L D"]:
    values, scale, change = weight
    if change is None:
        return product("bhlk,dhk->bhld", scaled(x_BxHxLxK, scale), values)
    x_BxHxLxK = scaled(x_BxHxLxK, change.out_scale)
    y_BxHxLxD = product("bhlk,dhk->bhld", scaled(x_BxHxLxK, scale), values)
    if change.lora_a is not None:
        x_BxHxLxr = product("bhlk,rhk->bhlr", x_BxHxLxK, change.lora_b)
        y_BxHxLxD += scaled(product("bhlr,dr->bhld", x_BxHxLxr, change.lora_a), change.lora_scale)
    return scaled(y_BxHxLxD, change.in_scale)


def _times(x_BxHxLxD: Array, weight: Weight) -> Float[Array, "B H L K"]:
    values, scale, change = weight
    if change is None:
        return scaled(product("bhld,dhk->bhlk", x_BxHxLxD, values), scale)
    x_BxHxLxD = scaled(x_BxHxLxD, change.in_scale)
    y_BxHxLxK = scaled(product("bhld,dhk->bhlk", x_BxHxLxD, values), scale)
    if change.lora_a is not None:
        x_BxHxLxr = product("bhld,dr->bhlr", x_BxHxLxD, change.lora_a)
        y_BxHxLxK += scaled(product("bhlr,rhk->bhlk", x_BxHxLxr, change.lora_b), change.lora_scale)
    return scaled(y_BxHxLxK, change.out_scale)


def _by_head(weight: Weight, heads: int) -> Weight:
    """An inward kernel [D, H*K] as [D, H, K], and what is of its columns as [1, H, 1, K]."""
    values, scale, change = weight
    columns = (1, heads, 1, -1)
    if change is not None:
        b, out = change.lora_b, change.out_scale
        change = change._replace(
            lora_b=None if b is None else b.reshape(len(b), heads, -1),
            out_scale=None if out is None else out.reshape(columns),
        )
    values = values.reshape(values.shape[0], heads, -1)
    return Weight(values, None if scale is None else scale.reshape(columns), change)
