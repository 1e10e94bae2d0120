"""Attention of a causal model: fewer heads of keys than of queries, and masks by real distance.

Who sees whom is said by positions alone. A query at position p sees the keys at p - window + 1 to
p of its own segment; padding, as a key, is at `NOWHERE`. So it makes no difference where in a row
padding stands.

B batch   L queries   S keys   D embed   H heads   G heads of keys and values   R = H / G   K head
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.partitioning import with_sharding_constraint
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.models.causal.config import CausalConfig
from prompt_tuning_jax.models.causal.layers import Weights, capped, norm, project
from prompt_tuning_jax.models.causal.rotary import turned

NOWHERE = np.int32(2**30)
_HIDDEN = -1e30


class Places(NamedTuple):
    """Where the positions of some rows are.

    Attributes:
      positions: [B, L]; as keys, padding is at NOWHERE.
      segments: [B, L], of packed rows.
    """

    positions: Int[Array, "B L"]
    segments: Int[Array, "B L"] | None = None


class KeyValue(NamedTuple):
    """Keys, already turned, and values [B, G, S, K]."""

    keys: Float[Array, "B G S K"]
    values: Float[Array, "B G S K"]


class Kind(NamedTuple):
    """What layers differ in, as data: `config.LayerKind`."""

    window: int | Int[Array, ""] | None
    turning: Float[Array, "2 half"] | Float[np.ndarray, "2 half"] | None


def visible(
    queries: Places, keys: Places, window: int | Int[Array, ""] | None
) -> Bool[Array, "B L S"]:
    """True where a query sees a key."""
    distance_BxLxS = queries.positions[:, :, None] - keys.positions[:, None, :]
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
    positions_BxL: Int[Array, "B L"],
    kind: Kind,
) -> tuple[Float[Array, "B H L K"], KeyValue]:
    """Queries, keys and values of some positions, normed and turned as the config says."""
    H, G = config.num_heads, config.num_kv_heads
    if config.joined_qkv:
        joined = _heads(project(config, x_BxLxD, weights["qkv"]), H + 2 * G)
        q, k, v = joined[:, :H], joined[:, H : H + G], joined[:, H + G :]
    else:
        q, k, v = (
            _heads(project(config, x_BxLxD, weights[name]), heads)
            for name, heads in (("query", H), ("key", G), ("value", G))
        )
    if config.qk_norm:
        q, k = norm(config, q, weights["query_norm"]), norm(config, k, weights["key_norm"])
    if kind.turning is not None:
        q, k = (turned(x, positions_BxL, kind.turning) for x in (q, k))
    return q, KeyValue(k, v)


def attend(
    config: CausalConfig,
    q_BxHxLxK: Float[Array, "B H L K"],
    blocks: Sequence[tuple[KeyValue, Bool[Array, "B L _"]]],
    weights: Weights,
) -> Float[Array, "B L D"]:
    """softmax(cap(q k' scale)) v over the keys of all blocks, each with its mask."""
    B, H, L, K = q_BxHxLxK.shape
    q_BxGxRxLxK = q_BxHxLxK.reshape(B, config.num_kv_heads, -1, L, K)
    scores = []
    for (k_BxGxSxK, _), seen_BxLxS in blocks:
        products = jnp.einsum("bgrlk,bgsk->bgrls", q_BxGxRxLxK, k_BxGxSxK).astype(jnp.float32)
        raw = capped(products * config.score_scale, config.score_cap)
        scores.append(jnp.where(seen_BxLxS[:, None, None], raw, _HIDDEN))
    shares = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(q_BxHxLxK.dtype)
    ends = np.cumsum([block.shape[-1] for block in scores])[:-1]
    heads_BxGxRxLxK = sum(
        jnp.einsum("bgrls,bgsk->bgrlk", share, kv.values)
        for share, (kv, _) in zip(jnp.split(shares, ends, axis=-1), blocks, strict=True)
    )
    joined_BxLxHK = jnp.swapaxes(heads_BxGxRxLxK.reshape(B, H, L, K), 1, 2).reshape(B, L, H * K)
    return project(config, joined_BxLxHK, weights["out"])


def _heads(x_BxLxJ: Float[Array, "B L J"], heads: int) -> Float[Array, "B H L K"]:
    """Joined heads split, and before positions."""
    x_BxLxHxK = x_BxLxJ.reshape(*x_BxLxJ.shape[:-1], heads, -1)
    return with_sharding_constraint(
        jnp.swapaxes(x_BxLxHxK, 1, 2), ("batch", "heads", "length", "kv")
    )
