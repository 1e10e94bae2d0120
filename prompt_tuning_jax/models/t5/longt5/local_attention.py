"""Attention to the positions within a radius, and to a few side keys that a whole row shares.

    queries     a block of C = radius + 1 positions
    keys        that block and its two neighbours, which hold all that is near enough
    side keys   G of them, for all queries of a row (transient-global attention; none in local)

so that a row of S positions has S * (3C + G) scores instead of S * S.

B batch   S joined length   H heads   K head dim
C positions of a block   W positions of a window of keys   M blocks   G side keys
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.models.attention.bias import mask_bias
from prompt_tuning_jax.models.attention.softmax import softmax


class SideBias(NamedTuple):
    """Which side keys a position may attend to, and how far from it they are.

    Attributes:
      segments: the segment that each side key is of, 0 where there is none.
      own: the side key that each position is summed up in, -1 where there is none.
      distances: the relative-position bias of side keys, that of queries by their `own`; None
        where every layer has a table of its own and puts it in.
    """

    segments: Int[Array, "B G"]
    own: Int[Array, "B S"]
    distances: Float[Array, "1 H G G"] | None = None


class LocalBias(NamedTuple):
    """What keeps positions apart, and how far apart those of a window are.

    Attributes:
      segments: positions see those of their own number only; 0 is padding, which sees nothing.
      distances: the relative-position bias of a block's queries over its window; None where every
        layer has a table of its own and puts it in.
      side: the same of side keys, where there are any.
    """

    segments: Int[Array, "B S"]
    distances: Float[Array, "1 H C W"] | None = None
    side: SideBias | None = None


def window_of(length: int, radius: int) -> tuple[int, int]:
    """(C, W) for rows of `length`: short rows are one block, which needs no neighbours."""
    if length <= radius + 1:
        return length, length
    return radius + 1, 3 * (radius + 1)


def attend(
    q_BxHxSxK: Float[Array, "B H S K"],
    k_BxHxSxK: Float[Array, "B H S K"],
    v_BxHxSxK: Float[Array, "B H S K"],
    side_kv: tuple[Float[Array, "B H G K"], Float[Array, "B H G K"]] | None,
    *,
    bias: LocalBias,
    at_once: int,
) -> Float[Array, "B H S K"]:
    """softmax(q k' + bias) v over each position's window and side keys.

    Args:
      at_once: the scores of how many of a row's queries are in memory at a time, in the backward
        pass too; rounded to whole blocks, at least one.
    """
    S, (C, W) = q_BxHxSxK.shape[2], bias.distances.shape[2:]
    blocks = -(-S // C)

    def queries(x_BxHxSxK):
        return _windows(x_BxHxSxK, blocks, C, C)

    def keys(x_BxHxSxK):
        return _windows(x_BxHxSxK, blocks, C, W)

    segments_Bx1xSx1 = bias.segments[:, None, :, None]
    of_blocks = {
        "q_BxHxCxK": queries(q_BxHxSxK),
        "k_BxHxWxK": keys(k_BxHxSxK),
        "v_BxHxWxK": keys(v_BxHxSxK),
        "query_segments": queries(segments_Bx1xSx1),
        "key_segments": keys(segments_Bx1xSx1),
        "own": None if bias.side is None else queries(bias.side.own[:, None, :, None]),
    }
    of_block = _attention_of_a_block(side_kv, bias)
    if at_once >= blocks * C:
        heads_MxBxHxCxK = jax.vmap(of_block)(of_blocks)
    else:
        group = max(1, at_once // C)
        heads_MxBxHxCxK = jax.lax.map(jax.checkpoint(of_block), of_blocks, batch_size=group)
    heads_BxHxMxCxK = jnp.moveaxis(heads_MxBxHxCxK, 0, 2)
    return heads_BxHxMxCxK.reshape(*q_BxHxSxK.shape[:2], blocks * C, -1)[:, :, :S]


def _attention_of_a_block(
    side_kv: tuple[Array, Array] | None, bias: LocalBias
) -> Callable[[dict[str, Array]], Array]:
    """The function that `attend` applies to every block."""
    C, W = bias.distances.shape[2:]
    offsets_CxW = np.arange(W)[None, :] - (W - C) // 2 - np.arange(C)[:, None]
    near_1xCxW = np.abs(offsets_CxW)[None] < C

    def attention(block: dict[str, Array]) -> Float[Array, "B H C K"]:
        segments_BxCx1 = block["query_segments"][:, 0]
        segments_Bx1xW = jnp.swapaxes(block["key_segments"][:, 0], 1, 2)
        seen_BxCxW = _alike(segments_BxCx1, segments_Bx1xW) & near_1xCxW
        scores = _scores(block["q_BxHxCxK"], block["k_BxHxWxK"])
        scores += mask_bias(seen_BxCxW) + bias.distances
        if side_kv is not None:
            side_scores = _scores(block["q_BxHxCxK"], side_kv[0])
            side_scores += _side_bias(bias.side, segments_BxCx1, block["own"][:, 0, :, 0])
            scores = jnp.concatenate([scores, side_scores], axis=-1)

        weights = softmax(scores).astype(block["v_BxHxWxK"].dtype)
        heads_BxHxCxK = _mix(weights[..., :W], block["v_BxHxWxK"])
        if side_kv is not None:
            heads_BxHxCxK += _mix(weights[..., W:], side_kv[1])
        return heads_BxHxCxK

    return attention


def _side_bias(
    side: SideBias, segments_BxCx1: Int[Array, "B C 1"], own_BxC: Int[Array, "B C"]
) -> Float[Array, "B H C G"]:
    mask_Bx1xCxG = mask_bias(_alike(segments_BxCx1, side.segments[:, None, :]))
    distances_BxCxHxG = jnp.swapaxes(side.distances[0], 0, 1)[jnp.maximum(own_BxC, 0)]
    return mask_Bx1xCxG + jnp.swapaxes(distances_BxCxHxG, 1, 2)


def _alike(query_segments: Int[Array, "B C 1"], key_segments: Int[Array, "B 1 keys"]) -> Array:
    return (query_segments == key_segments) & (query_segments > 0)


def _scores(q_BxHxCxK: Array, k_BxHxWxK: Array) -> Float[Array, "B H C W"]:
    return jnp.einsum(
        "bhck,bhwk->bhcw", q_BxHxCxK, k_BxHxWxK, preferred_element_type=jnp.float32
    ).astype(jnp.float32)


def _mix(weights_BxHxCxW: Array, v_BxHxWxK: Array) -> Float[Array, "B H C K"]:
    return jnp.einsum("bhcw,bhwk->bhck", weights_BxHxCxW, v_BxHxWxK)


def _windows(
    x_BxHxSxK: Array, blocks: int, block: int, window: int
) -> Float[Array, "M B H W K"] | Int[Array, "M B H W K"]:
    """For each block of positions (axis 2), the window of positions around it; 0 past the ends."""
    S, edge = x_BxHxSxK.shape[2], (window - block) // 2
    spare = ((0, 0), (0, 0), (edge, edge + blocks * block - S), (0, 0))
    padded = jnp.pad(x_BxHxSxK, spare)
    parts = [padded[:, :, i : i + blocks * block] for i in range(0, window, block)]
    parts = [x.reshape(*x.shape[:2], blocks, block, x.shape[3]) for x in parts]
    return jnp.moveaxis(jnp.concatenate(parts, axis=3), 2, 0)
