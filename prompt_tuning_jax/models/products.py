"""Products with weights that may be stored as int8: what the networks of all families multiply by.

x times a matrix [in, out] in x's dtype; int8 values have a float32 `scale` for each column. What an
adapter changes of a product is in `adapters`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_tuning_jax.models.adapters import Change

# `kernel_scale` stands beside a `kernel` that is stored as int8; see `checkpoints.quantize`.
SCALE = "_scale"


class Weight(NamedTuple):
    """A matrix [in, out] to multiply with: `values`, and a `scale` per column if they are int8.

    `change` is what an adapter makes of the product.
    """

    values: Array
    scale: Float[Array, "1 outputs"] | None = None
    change: Change | None = None


def dense(
    x: Float[Array, "*shape inputs"], weight: Weight, bias: Float[Array, " outputs"] | None = None
) -> Float[Array, "*shape outputs"]:
    """x times a matrix, plus its bias if it has one.

    Batch and length are one dimension in the product: the weight's gradient then sums over a single
    dimension, which XLA computes 2.4 times faster on CPU.
    """
    values, scale, change = weight
    x_RxI = x.reshape(-1, x.shape[-1])
    if change is not None:
        x_RxI = change.before(x_RxI)
    y_RxO = scaled(product("ri,io->ro", x_RxI, values), scale)
    if change is not None:
        y_RxO = change.beside(y_RxO, x_RxI)
    if bias is not None:
        y_RxO = y_RxO + bias.astype(y_RxO.dtype)[None, :]
    if change is not None:
        y_RxO = change.after(y_RxO)
    return y_RxO.reshape(*x.shape[:-1], -1)


def product(subscripts: str, x: Float[Array, "..."], values: Array) -> Float[Array, "..."]:
    """einsum of x and a weight's values, which are cast to x's dtype.

    int8 values are cast twice, for the product and again for its gradient, so that no copy of the
    model in floating point has to stay in memory until the backward pass.
    """

    def einsum(x: jax.Array, values: jax.Array) -> jax.Array:
        return jnp.einsum(subscripts, x, values.astype(x.dtype))

    return (jax.checkpoint(einsum) if values.dtype == jnp.int8 else einsum)(x, values)


def scaled(x: Float[Array, "..."], scale: Float[Array, "..."] | None) -> Float[Array, "..."]:
    """x times a scale that broadcasts, in float32; x itself where there is no scale."""
    if scale is None:
        return x
    scale = scale.reshape((1,) * (x.ndim - scale.ndim) + scale.shape)
    return (x.astype(jnp.float32) * scale).astype(x.dtype)
