"""The stretches of a row that transient-global attention sums up, one side key for each.

    positions   0 1 2 3 4 5 6 7 8 9      blocks of 4: what is left over joins the last whole block
    block       0 0 0 0 1 1 1 1 1 1      and an example shorter than a block has none

B batch   S joined length   D embed   G side keys
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

NONE = -1


def side_blocks(
    segments_BxS: Int[Array, "B S"], size: int
) -> tuple[Int[Array, "B S"], Int[Array, "B G"]]:
    """(each position's block, each block's segment), G = S // size, at least 1.

    Args:
      segments_BxS: 1, 2, ... for the examples of a row, one behind the other; 0 at padding.
      size: the positions of a block; every example begins one.

    Returns:
      Blocks are numbered through a row; NONE at padding and in examples that have no block. A
      number that no position has is a block of segment 0.
    """
    S = segments_BxS.shape[1]
    places_1xS = jnp.arange(S)[None, :]
    step_BxS = jnp.diff(segments_BxS, axis=1) != 0
    first_BxS = jnp.pad(step_BxS, ((0, 0), (1, 0)), constant_values=True)
    last_BxS = jnp.pad(step_BxS, ((0, 0), (0, 1)), constant_values=True)
    start_BxS = jax.lax.cummax(jnp.where(first_BxS, places_1xS, 0), axis=1)
    end_BxS = jax.lax.cummin(jnp.where(last_BxS, places_1xS, S), axis=1, reverse=True)

    ends_BxS = ((places_1xS - start_BxS) % size == size - 1) & (segments_BxS > 0)
    ended_BxS = jnp.cumsum(ends_BxS, axis=1, dtype=jnp.int32)
    before_example_BxS = jnp.take_along_axis(jnp.pad(ended_BxS, ((0, 0), (1, 0))), start_BxS, 1)
    with_example_BxS = jnp.take_along_axis(ended_BxS, end_BxS, axis=1)
    block_BxS = jnp.minimum(ended_BxS - ends_BxS.astype(jnp.int32), with_example_BxS - 1)
    has_block_BxS = (with_example_BxS > before_example_BxS) & (segments_BxS > 0)
    block_BxS = jnp.where(has_block_BxS, block_BxS, NONE)

    is_in_BxSxG = block_BxS[:, :, None] == jnp.arange(max(1, S // size))[None, None, :]
    return block_BxS, jnp.max(jnp.where(is_in_BxSxG, segments_BxS[:, :, None], 0), axis=1)


def sums(
    x_BxSxD: Float[Array, "B S D"], block_BxS: Int[Array, "B S"], count: int
) -> Float[Array, "B {count} D"]:
    """The sum of each block's positions, in float32."""
    is_in_BxSxG = jax.nn.one_hot(block_BxS, count, dtype=x_BxSxD.dtype)
    return jnp.einsum("bsg,bsd->bgd", is_in_BxSxG, x_BxSxD, preferred_element_type=jnp.float32)
