"""T5's learned bias of relative positions.

L queries   S keys   H heads   R buckets of relative positions   O offsets, L + S - 1
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.params import parameter


class RelativePositionBias(nn.Module):
    """bias[h, i, j] = rel_embedding[h, bucket of (j - i)], added to a stack's attention scores.

    What a call returns is that bias by offset; `attention.bias.toeplitz` makes [H, L, S] of it.
    """

    config: T5Config
    bidirectional: bool

    @nn.compact
    def __call__(
        self, queries: int, keys: int, first_query: int | Int[Array, ""] = 0
    ) -> Float[Array, "H O"]:
        """That of `queries` positions from `first_query` on, over keys 0 to keys - 1.

        There are at most as many queries as keys.
        """
        cfg = self.config
        table_HxR = parameter(
            self,
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
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
        return jax.lax.dynamic_slice_in_dim(by_offset, first, queries + keys - 1, axis=1)


def relative_buckets(
    offsets: Int[np.ndarray, "..."], bidirectional: bool, buckets: int, max_distance: int
) -> Int[np.ndarray, "..."]:
    """The bucket of each offset (key position minus query position).

    Small distances have a bucket each. Larger ones share buckets, which widen logarithmically up to
    `max_distance`; all distances beyond that share the last. Without `bidirectional`, keys after
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
