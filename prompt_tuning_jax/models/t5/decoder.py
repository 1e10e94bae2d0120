"""T5's decoder. Of prompts it knows which of the encoder's positions it may look at, and its own.

B batch   S joined length   L target length   D embed   H heads   K head dim   V vocabulary
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax import layout
from prompt_tuning_jax.models.adapters import DECODER_PROMPT
from prompt_tuning_jax.models.attention.bias import Bias, mask_bias
from prompt_tuning_jax.models.t5 import cache, cross_keys_values, layers, scan
from prompt_tuning_jax.models.t5.attention import CrossAttention, KeyValue, SelfAttention
from prompt_tuning_jax.models.t5.attention_bias import RelativePositionBias
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.models.t5.cross_keys_values import KeyValues


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and an MLP; each adds what it makes of its normed input."""

    config: T5Config

    def setup(self):
        cfg = self.config
        self.pre_self_attention_layer_norm = layers.LayerNorm(cfg)
        self.self_attention = SelfAttention(cfg)
        self.pre_cross_attention_layer_norm = layers.LayerNorm(cfg)
        self.encoder_decoder_attention = CrossAttention(cfg)
        self.pre_mlp_layer_norm = layers.LayerNorm(cfg)
        self.mlp = layers.Mlp(cfg)
        self.dropout = layers.dropout(cfg)
        if cfg.each_layer_has_bias:
            self.relpos_bias = RelativePositionBias(cfg, bidirectional=False)

    def __call__(
        self,
        y_BxLxD: Float[Array, "B L D"],
        encoded_BxSxD: Float[Array, "B S D"] | None,
        *,
        self_bias: Bias,
        cross_bias: Bias,
        deterministic: bool,
        cross_kv: KeyValue | None,
        cache_index: Int[Array, ""] | None,
        make_cache: bool,
        fill_cache: bool,
    ) -> Float[Array, "B L D"]:
        if self.config.each_layer_has_bias:
            queries, keys = self_bias.mask.shape[-2:]
            first = self.self_attention.prefix_length()
            first = first if cache_index is None else first + cache_index
            self_bias = Bias.of(self_bias.mask, self.relpos_bias(queries, keys, first))

        # Self-attention block.
        z_BxLxD = self.pre_self_attention_layer_norm(y_BxLxD)
        z_BxLxD = self.self_attention(
            z_BxLxD,
            bias=self_bias,
            deterministic=deterministic,
            cache_index=cache_index,
            make_cache=make_cache,
            fill_cache=fill_cache,
        )
        y_BxLxD = y_BxLxD + self.dropout(z_BxLxD, deterministic=deterministic)

        # Cross-attention block.
        z_BxLxD = self.pre_cross_attention_layer_norm(y_BxLxD)
        z_BxLxD = self.encoder_decoder_attention(
            z_BxLxD, encoded_BxSxD, bias=cross_bias, deterministic=deterministic, kv=cross_kv
        )
        y_BxLxD = y_BxLxD + self.dropout(z_BxLxD, deterministic=deterministic)

        # MLP block.
        z_BxLxD = self.pre_mlp_layer_norm(y_BxLxD)
        z_BxLxD = self.mlp(z_BxLxD, deterministic=deterministic)
        return y_BxLxD + self.dropout(z_BxLxD, deterministic=deterministic)


class ToLogits(nn.Module):
    """The end of a decoder: its last norm and the output layer."""

    config: T5Config

    def setup(self):
        cfg = self.config
        self.decoder_norm = layers.LayerNorm(cfg)
        if not cfg.logits_via_embedding:
            # float32 whatever the activations are: the loss needs it.
            self.logits_dense = layers.Kernel((cfg.emb_dim, cfg.vocab_size), ("embed", "vocab"))
        self.dropout = layers.dropout(cfg)

    def to_logits(
        self, y_BxLxD: Float[Array, "B L D"], token_embedder: layers.Embed, deterministic: bool
    ) -> Float[Array, "B L V"]:
        y_BxLxD = self.dropout(self.decoder_norm(y_BxLxD), deterministic=deterministic)
        y_BxLxD = y_BxLxD.astype(jnp.float32)
        if self.config.outputs_scaled:
            y_BxLxD *= self.config.emb_dim**-0.5
        if self.config.logits_via_embedding:
            return token_embedder.logits(y_BxLxD)
        return layers.dense(y_BxLxD, self.logits_dense())


class Decoder(ToLogits):
    """The decoder's layers and the output layer."""

    token_embedder: layers.Embed

    def setup(self):
        super().setup()
        cfg = self.config
        if cfg.scan_layers:
            self.layers = [DecoderLayer(cfg, name="decoder")]
        else:
            self.layers = [DecoderLayer(cfg) for _ in range(cfg.num_decoder_layers)]
        if not cfg.each_layer_has_bias:
            self.relpos_bias = RelativePositionBias(cfg, bidirectional=False)

    def __call__(
        self,
        encoded_BxSxD: Float[Array, "B S D"] | None,
        tokens_BxL: Int[Array, "B L"],
        *,
        cross_mask_BxLxS: Bool[Array, " B #L S"],
        segment_ids: Int[Array, "B L"] | None,
        deterministic: bool,
        decode: bool,
        cross_kv: KeyValues | None,
    ) -> Float[Array, "B L V"]:
        """Logits; `cross_mask` is True where a target may attend to a position of the encoder.

        With `cross_kv`, which are made of it, the encoder's output is not needed.

        A prompt of its own stands before the targets, as more of them would, and has no logits.
        """
        prompt_PxD = self.get_variable("params", DECODER_PROMPT)
        if prompt_PxD is not None and segment_ids is not None:
            raise ValueError("A decoder's prompt stands before whole rows: they cannot be packed.")
        P = 0 if prompt_PxD is None else len(prompt_PxD)
        cache_index, make_cache = None, False
        if decode:
            cache_index, make_cache = cache.advance(self, tokens_BxL.shape[1], first=P)
        y_BxLxD = self.token_embedder(tokens_BxL)
        if P and cache_index is None:
            shape = len(y_BxLxD), *prompt_PxD.shape
            rows_BxPxD = jnp.broadcast_to(prompt_PxD.astype(y_BxLxD.dtype)[None], shape)
            y_BxLxD = jnp.concatenate([rows_BxPxD, y_BxLxD], axis=1)
        self_bias = self._self_bias(y_BxLxD.shape[1], segment_ids, cache_index)
        cross_bias = Bias(mask_bias(cross_mask_BxLxS))
        y_BxLxD = self.dropout(y_BxLxD, deterministic=deterministic)

        def step(layer, y_BxLxD, cross_kv):
            y_BxLxD = layer(
                y_BxLxD,
                encoded_BxSxD,
                self_bias=self_bias,
                cross_bias=cross_bias,
                deterministic=deterministic,
                cross_kv=cross_kv,
                cache_index=cache_index,
                make_cache=make_cache,
                fill_cache=P > 0,
            )
            return y_BxLxD, None

        depth = self.config.num_decoder_layers
        y_BxLxD, _ = scan.through(self.layers, step, y_BxLxD, depth=depth, per_layer=cross_kv)
        y_BxLxD = y_BxLxD[:, y_BxLxD.shape[1] - tokens_BxL.shape[1] :]
        return self.to_logits(y_BxLxD, self.token_embedder, deterministic)

    def project_encoded(self, encoded_BxSxD: Float[Array, "B S D"]) -> KeyValues:
        """Every layer's cross-attention keys and values."""
        depth = self.config.num_decoder_layers
        return cross_keys_values.project(self.layers, encoded_BxSxD, depth)

    def _self_bias(
        self,
        L: int,
        segment_ids: Int[Array, "B L"] | None,
        cache_index: Int[Array, ""] | None,
    ) -> Bias:
        """The causal mask, which keeps packed examples apart too, and the relative positions.

        Padding of the targets needs no mask: it stands at the end, where causality hides it.
        """
        keys = L if cache_index is None else cache.length(self.layers[0].self_attention)
        first = 0 if cache_index is None else cache_index
        causal_1xLxS = jnp.arange(keys)[None, None, :] <= first + jnp.arange(L)[None, :, None]
        mask_BxLxS = layout.within_segments(causal_1xLxS, segment_ids, segment_ids)
        prefix = self.layers[0].self_attention.prefix_length()
        mask_Bx1xLxS = mask_bias(layout.behind_prefix(mask_BxLxS, prefix))
        if self.config.each_layer_has_bias:
            return Bias(mask_Bx1xLxS)
        return Bias.of(mask_Bx1xLxS, self.relpos_bias(L, prefix + keys, prefix + first))
