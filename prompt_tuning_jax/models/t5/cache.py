"""What incremental decoding remembers: every layer's keys and values, and how many there are.

They are variables of the flax collection "cache", under T5X's names: `cached_key` and
`cached_value` of each self-attention, [B, H, S, K] with room for S positions, and the decoder's
`cache_index`, the position that comes next.

B batch   S positions of the cache   L new tokens   H heads   K head dim
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

INDEX = "cache_index"
KEY, VALUE = "cached_key", "cached_value"


# ---- of a decoder ----------------------------------------------------------------------------


def advance(decoder: nn.Module, count: int, first: int = 0) -> tuple[Int[Array, ""] | None, bool]:
    """(where the next `count` tokens go, whether to make a cache).

    A decoder's first call makes the cache, and gets None for the place.

    Args:
      first: where the first token goes.
    """
    if not decoder.has_variable("cache", INDEX):
        decoder.put_variable("cache", INDEX, jnp.full((), first, jnp.int32))
        return None, True
    index = decoder.get_variable("cache", INDEX)
    decoder.put_variable("cache", INDEX, index + count)
    return index, False


# ---- of one layer's self-attention -----------------------------------------------------------


def make(
    attention: nn.Module,
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    filled: bool = False,
) -> None:
    """A cache with room for as many positions as k and v have, empty or filled with them.

    Tokens that come later stand over what is not to stay, and until then no query sees it.
    """
    attention.put_variable("cache", KEY, k if filled else jnp.zeros_like(k))
    attention.put_variable("cache", VALUE, v if filled else jnp.zeros_like(v))


def extend(
    attention: nn.Module,
    k: Float[Array, "B H L K"],
    v: Float[Array, "B H L K"],
    index: Int[Array, ""] | Int[Array, " B"],
) -> tuple[Float[Array, "B H S K"], Float[Array, "B H S K"]]:
    """Writes new keys and values at `index`; returns all that the cache then holds.

    Args:
      index: where they go: one position for all rows, or, of a single new token, one of each row.
    """
    return _write(attention, KEY, k, index), _write(attention, VALUE, v, index)


def length(attention: nn.Module) -> int:
    """How many positions the cache has room for."""
    return attention.get_variable("cache", KEY).shape[-2]


def _write(attention: nn.Module, name: str, new_BxHxLxK: jax.Array, index: jax.Array) -> jax.Array:
    cached_BxHxSxK = attention.get_variable("cache", name)
    new_BxHxLxK = new_BxHxLxK.astype(cached_BxHxSxK.dtype)
    if index.ndim == 0:
        cached_BxHxSxK = jax.lax.dynamic_update_slice_in_dim(
            cached_BxHxSxK, new_BxHxLxK, index, axis=2
        )
    else:
        is_new_BxS = jnp.arange(cached_BxHxSxK.shape[2])[None, :] == index[:, None]
        cached_BxHxSxK = jnp.where(is_new_BxS[:, None, :, None], new_BxHxLxK, cached_BxHxSxK)
    attention.put_variable("cache", name, cached_BxHxSxK)
    return cached_BxHxSxK
