"""Attention and its bias. Parameter names, shapes, initialisers and logical axes are T5X's.

B batch   S encoder length   L target length   D embed   H heads   K head dim   C queries of a chunk
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import param_with_axes, with_sharding_constraint
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.models.t5.layers import Kernel, Weight, dense, dropout, product, scaled

MASKED = -1e10
_variance_scaling = nn.initializers.variance_scaling
_attention_init = _variance_scaling(1.0, "fan_in", "normal")


class Bias(NamedTuple):
    """What is added to attention's scores, in parts that broadcast: their sum is B times as large.

    Attributes:
      mask: [#batch, 1, #queries, keys], 0 or MASKED.
      distances: the relative-position bias [#batch, heads, queries, keys], where there is one.
    """

    mask: Float[Array, "#batch 1 #queries keys"]
    distances: Float[Array, "#batch heads queries keys"] | None = None

    def queries(self, first: Int[Array, ""], count: int) -> "Bias":
        """That of `count` queries, `first` being the first."""

        def part(x: Array | None) -> Array | None:
            if x is None or x.shape[2] == 1:
                return x
            return jax.lax.dynamic_slice_in_dim(x, first, count, axis=2)

        return Bias(part(self.mask), part(self.distances))


class _Attention(nn.Module):
    """Kernels and steps shared by self- and cross-attention.

    T5 does not divide the scores by sqrt(K): the query kernel's initialiser does.
    """

    config: T5Config

    def setup(self):
        cfg = self.config
        D, H, K = cfg.emb_dim, cfg.num_heads, cfg.head_dim
        # T5X's scanned layers keep heads apart in the parameter tree, its others do not.
        heads, axes = ((H, K), ("heads", "kv")) if cfg.scan_layers else ((H * K,), ("joined_kv",))
        inwards = functools.partial(Kernel, (D, H * K), ("embed", *axes), stored_shape=(D, *heads))
        self.query = inwards(initializer=_query_init(cfg.head_dim), dtype=cfg.dtype)
        self.key = inwards(initializer=_attention_init, dtype=cfg.dtype)
        self.value = inwards(initializer=_attention_init, dtype=cfg.dtype)
        self.out = Kernel(
            (H * K, D), (*axes, "embed"), _attention_init, cfg.dtype, stored_shape=(*heads, D)
        )
        self.dropout = dropout(cfg)

    def _heads(self, x_BxLxD: jax.Array, kernel: Kernel) -> Float[Array, "B H L K"]:
        """x through one of the inward kernels, split into heads.

        Heads stand before positions, so that both matrix products of attention are contiguous.
        """
        joined = dense(x_BxLxD, kernel())
        heads = joined.reshape(*joined.shape[:-1], self.config.num_heads, self.config.head_dim)
        return with_sharding_constraint(
            jnp.swapaxes(heads, 1, 2), ("batch", "heads", "length", "kv")
        )

    def _attend(self, q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, bias: Bias, deterministic: bool):
        """Weighted means of values: all queries at once, or `attention_chunk` of them at a time."""
        (B, H, L, _), S = q_BxHxLxK.shape, k_BxHxSxK.shape[2]
        kept = self._kept((B, H, 1, S), deterministic)
        if kept is not None:
            # What is dropped is the same for all queries, so it may as well be dropped from the
            # values: S x K numbers instead of L x S.
            v_BxHxSxK = v_BxHxSxK * jnp.swapaxes(kept, 2, 3)
        chunk = self.config.queries_at_once(B, L, S)

        def attend(q_BxHxCxK, bias):
            scores = jnp.einsum(
                "bhlk,bhsk->bhls", q_BxHxCxK, k_BxHxSxK, preferred_element_type=jnp.float32
            )
            return jnp.einsum("bhls,bhsk->bhlk", self._weights(scores, bias), v_BxHxSxK)

        return attend(q_BxHxLxK, bias) if chunk == L else in_chunks(attend, q_BxHxLxK, bias, chunk)

    def _weights(self, scores_BxHxLxS: jax.Array, bias: Bias) -> Float[Array, "B H L S"]:
        """Softmax in float32, cast to the activations' dtype."""
        scores_BxHxLxS = scores_BxHxLxS.astype(jnp.float32) + bias.mask
        if bias.distances is not None:
            scores_BxHxLxS += bias.distances
        return _softmax(scores_BxHxLxS).astype(self.config.dtype)

    def _kept(self, shape: tuple[int, ...], deterministic: bool) -> Float[Array, "B H 1 S"] | None:
        """Dropout, one draw for all queries: 0 or 1 / (1 - rate); None where nothing is dropped."""
        if deterministic or not self.config.dropout_rate:
            return None
        return self.dropout(jnp.ones(shape, self.config.dtype), deterministic=False)

    def _outward(self, heads_BxHxLxK: Float[Array, "B H L K"]) -> Float[Array, "B L D"]:
        heads_BxLxHxK = jnp.swapaxes(heads_BxHxLxK, 1, 2)
        return dense(heads_BxLxHxK.reshape(*heads_BxLxHxK.shape[:2], -1), self.out())


class SelfAttention(_Attention):
    """Attention of a stack to itself, with a key/value cache for incremental decoding."""

    def __call__(
        self,
        x_BxLxD: Float[Array, "batch length embed"],
        bias: Bias,
        deterministic: bool,
        cache_index: Int[Array, ""] | None = None,
        make_cache: bool = False,
        before: tuple[Array, Array] | None = None,
    ) -> Float[Array, "batch length embed"]:
        """With `cache_index`, x is the next tokens only and the cache holds those before them.

        `before` are keys and values [B, H, P, K] of positions that stand before x's own.
        """
        q, k, v = (self._heads(x_BxLxD, kernel) for kernel in (self.query, self.key, self.value))
        if before is not None:
            k, v = (jnp.concatenate(both, axis=2) for both in zip(before, (k, v), strict=True))
        if make_cache:
            self.put_variable("cache", "cached_key", jnp.zeros_like(k))
            self.put_variable("cache", "cached_value", jnp.zeros_like(v))
        if cache_index is not None:
            k = self._remember("cached_key", k, cache_index)
            v = self._remember("cached_value", v, cache_index)
        return self._outward(self._attend(q, k, v, bias, deterministic))

    def project(
        self, x_BxLxD: Float[Array, "batch length embed"]
    ) -> tuple[Float[Array, "B H L K"], Float[Array, "B H L K"]]:
        """Keys and values of some positions."""
        return self._heads(x_BxLxD, self.key), self._heads(x_BxLxD, self.value)

    def _remember(self, name: str, new_BxHxLxK: jax.Array, cache_index: jax.Array) -> jax.Array:
        """Writes new keys or values at `cache_index`; returns all of them."""
        cached = self.get_variable("cache", name)
        new = new_BxHxLxK.astype(cached.dtype)
        cached = jax.lax.dynamic_update_slice_in_dim(cached, new, cache_index, axis=2)
        self.put_variable("cache", name, cached)
        return cached

    def cache_length(self) -> int:
        return self.get_variable("cache", "cached_key").shape[-2]


class CrossAttention(_Attention):
    """The decoder's attention to the encoder's output."""

    def __call__(
        self,
        x_BxLxD: Float[Array, "batch length embed"],
        encoded_BxSxD: Float[Array, "batch encoder_length embed"],
        bias: Bias,
        deterministic: bool,
        kv: tuple[Array, Array] | None = None,
    ) -> Float[Array, "batch length embed"]:
        """`kv` is what `project` made of `encoded`, where it is used more than once."""
        q_BxHxLxK = self._heads(x_BxLxD, self.query)
        if kv is None and q_BxHxLxK.shape[2] < self.config.head_dim:
            heads = self._attend_unprojected(q_BxHxLxK, encoded_BxSxD, bias, deterministic)
        else:
            k, v = self.project(encoded_BxSxD) if kv is None else kv
            heads = self._attend(q_BxHxLxK, k, v, bias, deterministic)
        return self._outward(heads)

    def project(
        self, encoded_BxSxD: Float[Array, "batch encoder_length embed"]
    ) -> tuple[Float[Array, "B H S K"], Float[Array, "B H S K"]]:
        return self._heads(encoded_BxSxD, self.key), self._heads(encoded_BxSxD, self.value)

    def _attend_unprojected(self, q_BxHxLxK, encoded_BxSxD, bias, deterministic):
        """The same attention with its products taken in another order.

        q (x Wk)' = (q Wk') x' and w (x Wv) = (w x) Wv. Projecting L queries to width D costs
        L/K of projecting S positions to keys and values, so targets shorter than K are cheaper so.
        """
        B, H = q_BxHxLxK.shape[:2]
        key, value = (_by_head(kernel(), H) for kernel in (self.key, self.value))
        q_BxHxLxD = product("bhlk,dhk->bhld", scaled(q_BxHxLxK, key.scale), key.values)
        scores = jnp.einsum(
            "bhld,bsd->bhls", q_BxHxLxD, encoded_BxSxD, preferred_element_type=jnp.float32
        )
        weights = self._weights(scores, bias)
        kept = self._kept((B, H, 1, encoded_BxSxD.shape[1]), deterministic)
        if kept is not None:
            weights *= kept
        mixed_BxHxLxD = jnp.einsum("bhls,bsd->bhld", weights, encoded_BxSxD)
        return scaled(product("bhld,dhk->bhlk", mixed_BxHxLxD, value.values), value.scale)


def _by_head(weight: Weight, heads: int) -> Weight:
    """An inward kernel [D, H*K] as [D, H, K], and its scale as [1, H, 1, K]."""
    values, scale = weight
    values = values.reshape(values.shape[0], heads, -1)
    return Weight(values, None if scale is None else scale.reshape(1, heads, 1, -1))


def in_chunks(
    attend: Callable[[Array, Bias], Array],
    q_BxHxLxK: Float[Array, "batch heads length kv"],
    bias: Bias,
    chunk: int,
) -> Float[Array, "batch heads length kv"]:
    """`attend(q, bias)` of at most `chunk` queries at a time.

    The backward pass computes each chunk again, so that scores of one chunk [B, H, chunk, S] are
    all that is ever in memory.
    """
    B, H, L, K = q_BxHxLxK.shape
    count = -(-L // chunk)
    size = -(-L // count)
    spare = ((0, 0), (0, 0), (0, count * size - L), (0, 0))
    q_BxHxNxCxK = jnp.pad(q_BxHxLxK, spare).reshape(B, H, count, size, K)
    bias = jax.tree.map(lambda x: x if x.shape[2] == 1 else jnp.pad(x, spare), bias)

    @jax.checkpoint
    def one(i, q_BxHxCxK):
        return attend(q_BxHxCxK, bias.queries(i * size, size))

    heads = jax.lax.map(
        lambda each: one(*each), (jnp.arange(count), jnp.moveaxis(q_BxHxNxCxK, 2, 0))
    )
    return jnp.moveaxis(heads, 0, 2).reshape(B, H, count * size, K)[:, :, :L]


@jax.custom_jvp
def _softmax(scores: Float[Array, "B H L S"]) -> Float[Array, "B H L S"]:
    """jax.nn.softmax, remembering one array this large for the gradient instead of two."""
    return jax.nn.softmax(scores, axis=-1)


@_softmax.defjvp
def _softmax_jvp(primals, tangents):
    weights, (change,) = _softmax(*primals), tangents
    return weights, weights * (change - jnp.sum(weights * change, axis=-1, keepdims=True))


def _query_init(head_dim: int) -> Callable[..., Any]:
    def init(*args):
        return _attention_init(*args) / float(np.sqrt(head_dim))

    return init


class RelativePositionBias(nn.Module):
    """A learned number per head and (bucketed) distance, added to a stack's attention scores."""

    config: T5Config
    bidirectional: bool

    @nn.compact
    def __call__(
        self, queries: int, keys: int, first_query: int | Int[Array, ""] = 0
    ) -> Float[Array, "1 heads queries keys"]:
        """The bias of queries `first_query` and on, over keys 0..keys-1 (queries <= keys)."""
        cfg = self.config
        table_HxR = param_with_axes(
            "rel_embedding",
            _variance_scaling(1.0, "fan_avg", "uniform"),
            (cfg.num_heads, cfg.relpos_buckets),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )
        offsets = np.arange(1 - keys, keys)
        buckets = relative_buckets(
            offsets, self.bidirectional, cfg.relpos_buckets, cfg.relpos_max_distance
        )
        by_offset = table_HxR.astype(jnp.float32)[:, buckets]
        first = keys - queries - first_query
        needed = jax.lax.dynamic_slice_in_dim(by_offset, first, queries + keys - 1, axis=1)
        return _toeplitz(needed, queries)[None]


def _toeplitz(values_HxR: Float[Array, "H R"], rows: int) -> Float[Array, "H rows columns"]:
    """out[h, i, j] = values[h, j - i + rows - 1]; by reshaping, as a gather is slow on TPUs."""
    H, R = values_HxR.shape
    padded = jnp.pad(values_HxR, ((0, 0), (0, 1)))
    shifted = jnp.tile(padded, (1, rows))[:, : rows * R].reshape(H, rows, R)
    return shifted[:, :, rows - 1 :]


def relative_buckets(
    offsets: Int[np.ndarray, "..."], bidirectional: bool, buckets: int, max_distance: int
) -> Int[np.ndarray, "..."]:
    """Bucket of each offset (key position minus query position).

    Small distances have a bucket each; larger ones share buckets that widen logarithmically up to
    `max_distance`, beyond which all distances share the last. Without `bidirectional`, keys after
    the query count as distance 0 (they are masked anyway).
    """
    later = 0
    distance = np.maximum(-offsets, 0)
    if bidirectional:
        buckets //= 2
        later = np.where(offsets > 0, buckets, 0)
        distance = np.abs(offsets)
    exact = buckets // 2
    # float32 and its epsilon, so that distances on a boundary fall where T5 put them.
    ratio = np.log(distance.astype(np.float32) / exact + np.finfo(np.float32).eps)
    wide = exact + (ratio / np.log(max_distance / exact) * (buckets - exact)).astype(np.int32)
    return later + np.where(distance < exact, distance, np.minimum(wide, buckets - 1))


def mask_bias(mask: Bool[Array, "..."]) -> Float[Array, "..."]:
    """0 where attention may look, a very negative number where it must not."""
    return jnp.where(mask, 0.0, MASKED).astype(jnp.float32)
