"""LongT5 (Guo et al. 2022): an encoder whose cost grows with a row's length, not its square.

With `T5Config.encoder_attention="local"` a position attends to those at most `local_radius` away.
With "transient_global" it attends to a summary of every `global_block_size` positions too: the sum
of their normed states, through a norm of its own and the layer's key and value kernels. Summaries
are made anew in each layer and go nowhere else.

A prompt's rows are positions like any other, so with local attention a prompt before a long input
is seen by the first positions only, and reaches those further on by `local_radius` a layer. Every
position sees the prompt's part of the summaries, if its blocks have some: a prompt of P rows is
summed up in P / global_block_size side keys, the last one shared with the input behind it.

Parameter names are those of T5X's LongT5: `side_relpos_bias` beside `relpos_bias`, and in each
attention `T5LayerNorm_0`, the norm of the summaries.

B batch   S joined length   D embed   H heads   K head dim   G side keys
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_tuning_jax import layout
from prompt_tuning_jax.models.attention.bias import toeplitz
from prompt_tuning_jax.models.attention.choice import Shape, queries_at_once
from prompt_tuning_jax.models.t5 import layers
from prompt_tuning_jax.models.t5.attention import SelfAttention
from prompt_tuning_jax.models.t5.attention_bias import RelativePositionBias
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.models.t5.encoder import Encoder, EncoderLayer
from prompt_tuning_jax.models.t5.longt5 import side_blocks
from prompt_tuning_jax.models.t5.longt5.local_attention import (
    LocalBias,
    SideBias,
    attend,
    window_of,
)


class LongSelfAttention(SelfAttention):
    """Attention to near positions and, if it is transient-global, to summaries of the row."""

    def setup(self):
        super().setup()
        if _has_side_keys(self.config):
            self.side_norm = layers.LayerNorm(self.config, name="T5LayerNorm_0")

    def __call__(
        self, x_BxSxD: Float[Array, "B S D"], *, bias: LocalBias, deterministic: bool, before: None
    ) -> Float[Array, "B S D"]:
        """What each position gathers; nothing stands `before` the positions of x."""
        if self.prefix_length():
            raise ValueError("LongT5's encoder takes no prefix: its attention is local.")
        q_BxHxSxK = self._heads(x_BxSxD, self.query)
        k_BxHxSxK, v_BxHxSxK = self.project(x_BxSxD)
        side_kv = None if bias.side is None else self._side_keys(x_BxSxD, bias.side)

        (B, H, S, _), G = q_BxHxSxK.shape, 0 if side_kv is None else side_kv[0].shape[2]
        kept_BxHx1xS = self._kept((B, H, 1, S + G), deterministic)
        if kept_BxHx1xS is not None:
            kept_BxHxSx1 = jnp.swapaxes(kept_BxHx1xS, 2, 3)
            v_BxHxSxK = v_BxHxSxK * kept_BxHxSx1[:, :, :S]
            if side_kv is not None:
                side_kv = (side_kv[0], side_kv[1] * kept_BxHxSx1[:, :, S:])

        keys, cfg = bias.distances.shape[-1] + G, self.config
        shape = Shape(B, H, S, keys, cfg.head_dim)
        at_once = queries_at_once(cfg.attention, cfg.attention_chunk, shape)
        return self._outward(
            attend(q_BxHxSxK, k_BxHxSxK, v_BxHxSxK, side_kv, bias=bias, at_once=at_once)
        )

    def _side_keys(
        self, x_BxSxD: Float[Array, "B S D"], side: SideBias
    ) -> tuple[Float[Array, "B H G K"], Float[Array, "B H G K"]]:
        """Keys and values of the row's summaries [B, H, G, K]."""
        sums_BxGxD = side_blocks.sums(x_BxSxD, side.own, side.segments.shape[1])
        return self.project(self.side_norm(sums_BxGxD))


class LongEncoderLayer(EncoderLayer):
    """A layer of LongT5's encoder."""

    attention_class = LongSelfAttention

    def setup(self):
        super().setup()
        if self.config.each_layer_has_bias and _has_side_keys(self.config):
            self.side_relpos_bias = RelativePositionBias(self.config, bidirectional=True)

    def with_distances(self, bias: LocalBias, queries: int) -> LocalBias:
        """The bias with the relative positions of the layer's own table."""
        return _with_distances(self, bias, queries)


class LongEncoder(Encoder):
    """LongT5's encoder. Packed examples have windows and summaries of their own."""

    layer_class = LongEncoderLayer

    def setup(self):
        super().setup()
        if not self.config.each_layer_has_bias and _has_side_keys(self.config):
            self.side_relpos_bias = RelativePositionBias(self.config, bidirectional=True)

    def bias_of(
        self,
        tokens_BxS: Int[Array, "B S"],
        prompt_positions: Int[Array, "B S"] | None,
        segment_ids: Int[Array, "B S"] | None,
    ) -> LocalBias:
        """What keeps a row's positions apart and, unless layers have their own, the distances."""
        attended_BxS = layout.attended(tokens_BxS, prompt_positions, self.config.pad_id)
        segments_BxS = jnp.where(attended_BxS, 1 if segment_ids is None else segment_ids, 0)
        side = None
        if _has_side_keys(self.config):
            own_BxS, side_segments_BxG = side_blocks.side_blocks(
                segments_BxS, self.config.global_block_size
            )
            side = SideBias(side_segments_BxG, own_BxS)
        bias = LocalBias(segments_BxS, side=side)
        if self.config.each_layer_has_bias:
            return bias
        return _with_distances(self, bias, tokens_BxS.shape[1])


def _has_side_keys(config: T5Config) -> bool:
    return config.encoder_attention == "transient_global"


def _with_distances(tables: Encoder | EncoderLayer, bias: LocalBias, length: int) -> LocalBias:
    """The bias with relative positions, from the tables of the stack or of a layer."""
    block, window = window_of(length, tables.config.local_radius)
    by_offset = tables.relpos_bias(block, window, (window - block) // 2)
    bias = bias._replace(distances=toeplitz(by_offset, block))
    if bias.side is None:
        return bias
    count = bias.side.segments.shape[1]
    distances = toeplitz(tables.side_relpos_bias(count, count), count)
    return bias._replace(side=bias.side._replace(distances=distances))
