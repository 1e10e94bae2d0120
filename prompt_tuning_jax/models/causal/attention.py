"""Attention of a causal model: fewer heads of keys than of queries, and masks by real distance.

Who sees whom is said by positions alone. A query at position p sees the keys at p - window + 1 to
p of its own segment, and in a bidirectional model those up to p + window - 1; padding, as a key, is
at `NOWHERE`. So it makes no difference where in a row padding stands.

B batch   L queries   S keys   D embed   H heads   G heads of keys and values   R = H / G   K head
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.partitioning import with_sharding_constraint
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.models.attention import attend as attention
from prompt_tuning_jax.models.attention.bias import MASKED, Bias, capped, mask_bias
from prompt_tuning_jax.models.attention.choice import FUSED_QUERIES
from prompt_tuning_jax.models.causal.config import CausalConfig
from prompt_tuning_jax.models.causal.layers import Weights, norm, project
from prompt_tuning_jax.models.causal.rotary import turned

NOWHERE = np.int32(2**30)
_FAR = NOWHERE // 2  # from all positions padding is farther than this, and none from another


class Places(NamedTuple):
    """Where the positions of some rows are.

    Attributes:
      positions: [B, L]; as keys, padding is at NOWHERE.
      segments: [B, L], of packed rows.
    """

    positions: Int[Array, "#B L"]
    segments: Int[Array, "#B L"] | None = None


class KeyValue(NamedTuple):
    """Keys, already turned, and values [B, G, S, K]; [1, G, S, K] where all rows have the same."""

    keys: Float[Array, "#B G S K"]
    values: Float[Array, "#B G S K"]


class Block(NamedTuple):
    """Keys and values of some positions, and where these are."""

    kv: KeyValue
    places: Places


def taken(places: Places, wanted_BxW: Int[Array, "B W"]) -> Places:
    """Those of some positions of each row."""
    return Places(*(x if x is None else jnp.take_along_axis(x, wanted_BxW, axis=1) for x in places))


class Kind(NamedTuple):
    """What layers differ in, as data: `config.LayerKind`."""

    window: int | Int[Array, ""] | None
    turning: Float[Array, "2 half"] | Float[np.ndarray, "2 half"] | None


def visible(
    queries: Places,
    keys: Places,
    window: int | Int[Array, ""] | None,
    bidirectional: bool = False,
) -> Bool[Array, "#B L S"]:
    """True where a query sees a key: one before it or, if `bidirectional`, also one after it."""
    distance_BxLxS = queries.positions[:, :, None] - keys.positions[:, None, :]
    if bidirectional:
        distance_BxLxS = jnp.abs(distance_BxLxS)
        seen_BxLxS = distance_BxLxS < _FAR
    else:
        seen_BxLxS = distance_BxLxS >= 0
    if window is not None:
        seen_BxLxS &= distance_BxLxS < window
    if queries.segments is not None and keys.segments is not None:
        seen_BxLxS &= queries.segments[:, :, None] == keys.segments[:, None, :]
    return seen_BxLxS


def project_heads(
    config: CausalConfig,
    x_BxLxD: Float[Array, "B L D"],
    weights: Weights,
    positions_BxL: Int[Array, "#B L"],
    kind: Kind,
) -> tuple[Float[Array, "B H L K"], KeyValue]:
    """Queries, keys and values of some positions, normed and turned as the config says.

    Queries are scaled too: attention takes their products with keys as they are.
    """
    H, G = config.num_heads, config.num_kv_heads
    if config.joined_qkv:
        joined = split_heads(project(config, x_BxLxD, weights["qkv"]), H + 2 * G)
        q, k, v = joined[:, :H], joined[:, H : H + G], joined[:, H + G :]
    else:
        q, k, v = (
            split_heads(project(config, x_BxLxD, weights[name]), heads)
            for name, heads in (("query", H), ("key", G), ("value", G))
        )
    if config.qk_norm:
        q, k = norm(config, q, weights["query_norm"]), norm(config, k, weights["key_norm"])
    q = scaled_queries(config, q)
    if kind.turning is not None:
        q, k = (turned(x, positions_BxL, kind.turning) for x in (q, k))
    return q.astype(config.dtype), KeyValue(k, v)


def scaled_queries(
    config: CausalConfig, q_BxHxLxK: Float[Array, "B H L K"]
) -> Float[Array, "B H L K"]:
    """Queries whose products with keys are scores, float32."""
    return q_BxHxLxK.astype(jnp.float32) * config.score_scale


def attend(
    config: CausalConfig,
    q_BxHxLxK: Float[Array, "B H L K"],
    blocks: Sequence[tuple[KeyValue, Bool[Array, "#B L _"]]],
    weights: Weights,
) -> Float[Array, "B L D"]:
    """softmax(cap(q k')) v over the keys of all blocks, each with its mask; q comes scaled."""
    B, H, L, K = q_BxHxLxK.shape
    if L < FUSED_QUERIES and 2 * config.num_kv_heads * K >= L * H:
        heads_BxHxLxK = _attend_to_each(config, q_BxHxLxK, blocks)
    else:
        heads_BxHxLxK = attention.attend(
            q_BxHxLxK,
            in_one([kv.keys for kv, _ in blocks], B),
            in_one([kv.values for kv, _ in blocks], B),
            Bias(mask_bias(_joined_mask([mask for _, mask in blocks], B))),
            cap=config.score_cap,
            form=config.attention,
            chunk=config.attention_chunk,
        )
    joined_BxLxHK = jnp.swapaxes(heads_BxHxLxK, 1, 2).reshape(B, L, H * K)
    return project(config, joined_BxLxHK, weights["out"])


def in_one(parts: Sequence[Array], rows: int) -> Float[Array, "B G S K"]:
    """Keys or values of all blocks, one after the other."""
    return jnp.concatenate([_of_rows(x, rows) for x in parts], axis=2)


def _joined_mask(masks: Sequence[Array], rows: int) -> Bool[Array, "#B L S"]:
    if len(masks) == 1:
        return masks[0]
    return jnp.concatenate([_of_rows(x, rows) for x in masks], axis=2)


def _of_rows(x: Array, rows: int) -> Array:
    return jnp.broadcast_to(x, (rows, *x.shape[1:]))


def _attend_to_each(
    config: CausalConfig,
    q_BxHxLxK: Float[Array, "B H L K"],
    blocks: Sequence[tuple[KeyValue, Array]],
) -> Float[Array, "B H L K"]:
    """The same for few queries, where it is scores that are joined: there are more keys to copy."""
    B, H, L, K = q_BxHxLxK.shape
    q_BxGxRxLxK = q_BxHxLxK.reshape(B, config.num_kv_heads, -1, L, K)
    scores = []
    for kv, seen_BxLxS in blocks:
        products = jnp.einsum("bgrlk,bgsk->bgrls", q_BxGxRxLxK, _of_rows(kv.keys, B))
        raw = capped(products.astype(jnp.float32), config.score_cap)
        scores.append(jnp.where(seen_BxLxS[:, None, None], raw, MASKED))
    shares = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(q_BxHxLxK.dtype)
    ends = np.cumsum([block.shape[-1] for block in scores])[:-1]
    heads_BxGxRxLxK = sum(
        jnp.einsum("bgrls,bgsk->bgrlk", share, _of_rows(kv.values, B))
        for share, (kv, _) in zip(jnp.split(shares, ends, axis=-1), blocks, strict=True)
    )
    return heads_BxGxRxLxK.reshape(B, H, L, K)


def split_heads(x_BxLxJ: Float[Array, "B L J"], heads: int) -> Float[Array, "B H L K"]:
    """Joined heads split, and before positions."""
    x_BxLxHxK = x_BxLxJ.reshape(*x_BxLxJ.shape[:-1], heads, -1)
    return with_sharding_constraint(
        jnp.swapaxes(x_BxLxHxK, 1, 2), ("batch", "heads", "length", "kv")
    )
