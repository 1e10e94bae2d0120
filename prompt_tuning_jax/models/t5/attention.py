"""T5's attention. Parameter names, shapes, initialisers and logical axes are T5X's.

B batch   S joined length   L target length   P prompt length   D embed   H heads   K head dim

Layouts of axes: x_BxLxD before the kernels, heads_BxHxLxK after them. Queries are named L and keys
S, in the encoder too.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import with_sharding_constraint
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.models.adapters import PREFIX_KEY, PREFIX_VALUE, prefix_heads
from prompt_tuning_jax.models.attention import dense as dense_attention
from prompt_tuning_jax.models.attention.attend import attend
from prompt_tuning_jax.models.attention.bias import Bias
from prompt_tuning_jax.models.products import dense
from prompt_tuning_jax.models.t5 import cache, unprojected_attention
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.models.t5.layers import Kernel, dropout

_attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")

# Keys and values of what is attended to; of a prompt that stands before it.
KeyValue = tuple[Float[Array, "B H S K"], Float[Array, "B H S K"]]
PromptKeyValue = tuple[Float[Array, "B H P K"], Float[Array, "B H P K"]]


class _Attention(nn.Module):
    """softmax(q k' + bias) v, with the kernels that self- and cross-attention both have.

    T5 does not divide the scores by sqrt(K): the query kernel's initialiser does.
    """

    config: T5Config

    def setup(self):
        cfg = self.config
        D, H, K = cfg.emb_dim, cfg.num_heads, cfg.head_dim
        # In T5X's parameter tree heads have an axis of their own only where layers are scanned.
        heads, axes = ((H, K), ("heads", "kv")) if cfg.scan_layers else ((H * K,), ("joined_kv",))
        inwards = functools.partial(Kernel, (D, H * K), ("embed", *axes), stored_shape=(D, *heads))
        self.query = inwards(initializer=_query_init(cfg.head_dim), dtype=cfg.dtype)
        self.key = inwards(initializer=_attention_init, dtype=cfg.dtype)
        self.value = inwards(initializer=_attention_init, dtype=cfg.dtype)
        self.out = Kernel(
            (H * K, D), (*axes, "embed"), _attention_init, cfg.dtype, stored_shape=(*heads, D)
        )
        self.dropout = dropout(cfg)

    def project(self, x_BxSxD: Float[Array, "B S D"]) -> KeyValue:
        """The keys and values of some positions."""
        return self._heads(x_BxSxD, self.key), self._heads(x_BxSxD, self.value)

    def _attend(
        self,
        q_BxHxLxK: Float[Array, "B H L K"],
        k_BxHxSxK: Float[Array, "B H S K"],
        v_BxHxSxK: Float[Array, "B H S K"],
        *,
        bias: Bias,
        deterministic: bool,
    ) -> Float[Array, "B H L K"]:
        B, H, S, _ = k_BxHxSxK.shape
        kept_BxHx1xS = self._kept((B, H, 1, S), deterministic)
        if kept_BxHx1xS is not None:
            # Dropout of the weights. All queries drop the same keys, so it may as well be dropout
            # of the values: S x K numbers instead of L x S.
            v_BxHxSxK = v_BxHxSxK * jnp.swapaxes(kept_BxHx1xS, 2, 3)

        form, chunk = self.config.attention, self.config.attention_chunk
        return attend(q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, bias, form=form, chunk=chunk)

    def _kept(self, shape: tuple[int, ...], deterministic: bool) -> Float[Array, "B H 1 S"] | None:
        """Dropout of keys: 0 or 1 / (1 - rate) for each. None where nothing is dropped."""
        if deterministic or not self.config.dropout_rate:
            return None
        return self.dropout(jnp.ones(shape, self.config.dtype), deterministic=False)

    def _heads(self, x_BxLxD: Float[Array, "B L D"], kernel: Kernel) -> Float[Array, "B H L K"]:
        """x through one of the inward kernels, split into heads.

        Heads stand before positions, so that both matrix products of attention are contiguous.
        """
        joined_BxLxHK = dense(x_BxLxD, kernel())
        heads_BxLxHxK = joined_BxLxHK.reshape(
            *joined_BxLxHK.shape[:-1], self.config.num_heads, self.config.head_dim
        )
        return with_sharding_constraint(
            jnp.swapaxes(heads_BxLxHxK, 1, 2), ("batch", "heads", "length", "kv")
        )

    def _outward(self, heads_BxHxLxK: Float[Array, "B H L K"]) -> Float[Array, "B L D"]:
        """The heads joined again, through the outward kernel."""
        heads_BxLxHxK = jnp.swapaxes(heads_BxHxLxK, 1, 2)
        return dense(heads_BxLxHxK.reshape(*heads_BxLxHxK.shape[:2], -1), self.out())


class SelfAttention(_Attention):
    """Attention of a stack to itself, with a cache for incremental decoding."""

    def __call__(
        self,
        x_BxLxD: Float[Array, "B L D"],
        *,
        bias: Bias,
        deterministic: bool,
        before: PromptKeyValue | None = None,
        cache_index: Int[Array, ""] | Int[Array, " B"] | None = None,
        make_cache: bool = False,
        fill_cache: bool = False,
    ) -> Float[Array, "B L D"]:
        """What each position gathers from those that `bias` lets it see.

        A prefix stands before all of them, and `bias` has columns for it.

        Args:
          before: keys and values [B, H, P, K] of positions that stand before x's own.
          cache_index: x is only the next tokens and goes there in the cache, which holds those
            before them; see `cache.extend`.
          make_cache: make an empty cache, with room for as many positions as x has.
          fill_cache: do not leave it empty.
        """
        q_BxHxLxK = self._heads(x_BxLxD, self.query)
        k_BxHxSxK, v_BxHxSxK = self.project(x_BxLxD)
        if before is not None:
            k_BxHxSxK = jnp.concatenate([before[0], k_BxHxSxK], axis=2)
            v_BxHxSxK = jnp.concatenate([before[1], v_BxHxSxK], axis=2)
        if make_cache:
            cache.make(self, k_BxHxSxK, v_BxHxSxK, fill_cache)
        if cache_index is not None:
            k_BxHxSxK, v_BxHxSxK = cache.extend(self, k_BxHxSxK, v_BxHxSxK, cache_index)
        if self.prefix_length():
            k_BxHxSxK = self._behind_prefix(PREFIX_KEY, k_BxHxSxK)
            v_BxHxSxK = self._behind_prefix(PREFIX_VALUE, v_BxHxSxK)
        heads_BxHxLxK = self._attend(
            q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, bias=bias, deterministic=deterministic
        )
        return self._outward(heads_BxHxLxK)

    def prefix_length(self) -> int:
        """How many keys of an adapter stand before all others; see `models.adapters`."""
        found = self.get_variable("params", PREFIX_KEY)
        return 0 if found is None else found.shape[-2]

    def _behind_prefix(self, name: str, x_BxHxSxK: jax.Array) -> Float[Array, "B H S K"]:
        leaf = self.get_variable("params", name)
        prefix_1xHxPxK = prefix_heads(leaf, self.config.num_heads, x_BxHxSxK.dtype)
        shape = len(x_BxHxSxK), *prefix_1xHxPxK.shape[1:]
        return jnp.concatenate([jnp.broadcast_to(prefix_1xHxPxK, shape), x_BxHxSxK], axis=2)


class CrossAttention(_Attention):
    """The decoder's attention to the encoder's output."""

    def __call__(
        self,
        x_BxLxD: Float[Array, "B L D"],
        encoded_BxSxD: Float[Array, "B S D"] | None,
        *,
        bias: Bias,
        deterministic: bool,
        kv: KeyValue | None = None,
    ) -> Float[Array, "B L D"]:
        """What each target position gathers from the encoder's output.

        Args:
          kv: `project(encoded)`, where the caller has it already; the output is not needed then.
        """
        q_BxHxLxK = self._heads(x_BxLxD, self.query)
        if kv is None and self._is_short(q_BxHxLxK):
            heads_BxHxLxK = self._attend_unprojected(
                q_BxHxLxK, encoded_BxSxD, bias=bias, deterministic=deterministic
            )
        else:
            k_BxHxSxK, v_BxHxSxK = self.project(encoded_BxSxD) if kv is None else kv
            heads_BxHxLxK = self._attend(
                q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, bias=bias, deterministic=deterministic
            )
        return self._outward(heads_BxHxLxK)

    def _is_short(self, q_BxHxLxK: Float[Array, "B H L K"]) -> bool:
        """Whether `_attend_unprojected` is cheaper, and can be done."""
        if q_BxHxLxK.shape[2] >= self.config.head_dim:
            return False
        return unprojected_attention.can_attend(self.key(), self.value())

    def _attend_unprojected(
        self,
        q_BxHxLxK: Float[Array, "B H L K"],
        encoded_BxSxD: Float[Array, "B S D"],
        *,
        bias: Bias,
        deterministic: bool,
    ) -> Float[Array, "B H L K"]:
        """`_attend` to the encoder's output, cheaper for targets shorter than K."""

        def to_weights(scores_BxHxLxS: jax.Array) -> jax.Array:
            B, H, _, S = scores_BxHxLxS.shape
            weights_BxHxLxS = dense_attention.weights(scores_BxHxLxS, bias, self.config.dtype)
            kept_BxHx1xS = self._kept((B, H, 1, S), deterministic)
            return weights_BxHxLxS if kept_BxHx1xS is None else weights_BxHxLxS * kept_BxHx1xS

        return unprojected_attention.attend(
            q_BxHxLxK, encoded_BxSxD, key=self.key(), value=self.value(), to_weights=to_weights
        )


def _query_init(head_dim: int) -> Callable[..., Any]:
    def init(*args):
        return _attention_init(*args) / float(np.sqrt(head_dim))

    return init
