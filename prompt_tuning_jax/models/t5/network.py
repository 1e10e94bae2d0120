"""T5 with one place for a prompt. Interface, parameter tree and logical axes are T5X's.

B batch   S joined encoder length   T input tokens   P prompt length   L target length
N prompts in the bank   D embed   H heads   K head dim   V vocabulary
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning_jax import layout, prompts
from prompt_tuning_jax.models.t5 import attention, layers, scan
from prompt_tuning_jax.models.t5.config import T5Config

# Cross-attention's keys and values: a pair for each layer or, scanned, a pair for all.
KeyValue = tuple[
    Float[Array, "*layers batch heads length kv"], Float[Array, "*layers batch heads length kv"]
]
KeyValues = tuple[KeyValue, ...] | KeyValue


class EncoderLayer(nn.Module):
    config: T5Config

    def setup(self):
        cfg = self.config
        self.pre_attention_layer_norm = layers.LayerNorm(cfg)
        self.attention = attention.SelfAttention(cfg)
        self.pre_mlp_layer_norm = layers.LayerNorm(cfg)
        self.mlp = layers.Mlp(cfg)
        self.dropout = layers.dropout(cfg)
        if cfg.scan_layers:
            self.relpos_bias = attention.RelativePositionBias(cfg, bidirectional=True)

    def __call__(self, x_BxSxD, bias, deterministic, before=None):
        """`before` are keys and values of positions before x's; the bias has columns for them."""
        if self.config.scan_layers:
            queries, keys = x_BxSxD.shape[1], bias.mask.shape[-1]
            bias = bias._replace(distances=self.relpos_bias(queries, keys, keys - queries))
        y = self.pre_attention_layer_norm(x_BxSxD)
        y = self.attention(y, bias, deterministic, before=before)
        x_BxSxD = x_BxSxD + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x_BxSxD), deterministic)
        return x_BxSxD + self.dropout(y, deterministic=deterministic)

    def project(self, x_BxLxD):
        """Keys and values that other positions attend to, [B, H, L, K] each."""
        return self.attention.project(self.pre_attention_layer_norm(x_BxLxD))


class DecoderLayer(nn.Module):
    config: T5Config

    def setup(self):
        cfg = self.config
        self.pre_self_attention_layer_norm = layers.LayerNorm(cfg)
        self.self_attention = attention.SelfAttention(cfg)
        self.pre_cross_attention_layer_norm = layers.LayerNorm(cfg)
        self.encoder_decoder_attention = attention.CrossAttention(cfg)
        self.pre_mlp_layer_norm = layers.LayerNorm(cfg)
        self.mlp = layers.Mlp(cfg)
        self.dropout = layers.dropout(cfg)
        if cfg.scan_layers:
            self.relpos_bias = attention.RelativePositionBias(cfg, bidirectional=False)

    def __call__(self, y_BxLxD, encoded_BxSxD, biases, deterministic, kv, cache_index, make_cache):
        self_bias, cross_bias = biases
        if self.config.scan_layers:
            first = 0 if cache_index is None else cache_index
            distances = self.relpos_bias(*self_bias.mask.shape[-2:], first)
            self_bias = self_bias._replace(distances=distances)
        z = self.pre_self_attention_layer_norm(y_BxLxD)
        z = self.self_attention(z, self_bias, deterministic, cache_index, make_cache)
        y_BxLxD = y_BxLxD + self.dropout(z, deterministic=deterministic)
        z = self.pre_cross_attention_layer_norm(y_BxLxD)
        z = self.encoder_decoder_attention(z, encoded_BxSxD, cross_bias, deterministic, kv)
        y_BxLxD = y_BxLxD + self.dropout(z, deterministic=deterministic)
        z = self.mlp(self.pre_mlp_layer_norm(y_BxLxD), deterministic)
        return y_BxLxD + self.dropout(z, deterministic=deterministic)


class Encoder(nn.Module):
    """The encoder stack; the prompt joins its embedded input."""

    config: T5Config
    token_embedder: layers.Embed
    make_prompt: Callable[[], nn.Module] | None
    prompt_layout: str

    def setup(self):
        cfg = self.config
        if self.make_prompt is not None:
            self.prompt = self.make_prompt()
        if cfg.scan_layers:
            self.layers = [EncoderLayer(cfg, name="encoder")]
        else:
            self.layers = [EncoderLayer(cfg) for _ in range(cfg.num_encoder_layers)]
            self.relpos_bias = attention.RelativePositionBias(cfg, bidirectional=True)
        self.encoder_norm = layers.LayerNorm(cfg)
        self.dropout = layers.dropout(cfg)

    def __call__(self, tokens, prompt_positions, prompt_ids, segment_ids, deterministic):
        if self.make_prompt is None:
            x_BxSxD = self.token_embedder(tokens)
            mask_BxQxS = layout.attended(tokens)[:, None, :]
            mask_BxQxS = layout.within_segments(mask_BxQxS, segment_ids, segment_ids)
            return self._run_layers(x_BxSxD, mask_BxQxS, deterministic)
        prompts_NxPxD = self.prompt(self.config.emb_dim)
        isolated = self.config.isolated_prompt and self.prompt_layout == "prefix"
        if prompt_positions is None and isolated:
            return self._encode_isolated(tokens, prompts_NxPxD, prompt_ids, deterministic)
        if prompt_positions is None:
            P = prompts_NxPxD.shape[-2]
            tokens, prompt_positions = layout.place_prompt(
                tokens, P, self.prompt_layout, self.config.eos_id
            )
        embedded_BxSxD = self.token_embedder(tokens)
        x_BxSxD = prompts.join(embedded_BxSxD, prompts_NxPxD, prompt_positions, prompt_ids)
        mask_BxQxS = layout.attended(tokens, prompt_positions)[:, None, :]
        if self.config.prompt_visibility != "full":
            mask_BxQxS &= layout.prompt_mask(
                prompt_positions, prompt_positions, self.config.prompt_visibility
            )
        mask_BxQxS = layout.within_segments(mask_BxQxS, segment_ids, segment_ids)
        return self._run_layers(x_BxSxD, mask_BxQxS, deterministic)

    def _run_layers(self, x_BxSxD, mask_BxQxS, deterministic):
        """The embedded input through all layers; `mask` is [B, 1, S] or [B, S, S]."""
        bias = self._bias(mask_BxQxS, x_BxSxD.shape[1])
        x_BxSxD = self.dropout(x_BxSxD, deterministic=deterministic)

        def step(layer, x_BxSxD, _):
            return layer(x_BxSxD, bias, deterministic), None

        x_BxSxD, _ = scan.through(self.layers, step, x_BxSxD, self.config.num_encoder_layers)
        return self.dropout(self.encoder_norm(x_BxSxD), deterministic=deterministic)

    def _encode_isolated(self, tokens, prompts, prompt_ids, deterministic):
        """Isolated prompts before their inputs: each prompt goes through once, not once per row.

        The prompts go through the layers by themselves [N, P, D], the tokens [B, T, D] with the
        keys and values of their row's prompt. Only dropout is not the same: one draw a prompt.
        """
        prompts_NxPxD = (prompts if prompts.ndim == 3 else prompts[None]).astype(self.config.dtype)
        P = prompts_NxPxD.shape[1]
        B, T = tokens.shape
        rows_P = jnp.arange(P)[None, :]
        prompt_mask = layout.prompt_mask(rows_P, rows_P, self.config.prompt_visibility)
        mask_BxS = jnp.concatenate([jnp.ones((B, P), bool), layout.attended(tokens)], axis=1)
        prompt_bias = self._bias(prompt_mask, P)
        bias = self._bias(mask_BxS[:, None, :], T)
        parts = prompts_NxPxD, self.token_embedder(tokens)
        parts = tuple(self.dropout(x, deterministic=deterministic) for x in parts)

        def of_rows(x_Nx):
            """Each row's own prompt's."""
            return x_Nx[jnp.zeros(B, jnp.int32) if prompt_ids is None else prompt_ids]

        def step(layer, parts, _):
            p_NxPxD, x_BxTxD = parts
            before = tuple(of_rows(each) for each in layer.project(p_NxPxD))
            p_NxPxD = layer(p_NxPxD, prompt_bias, deterministic)
            return (p_NxPxD, layer(x_BxTxD, bias, deterministic, before)), None

        parts, _ = scan.through(self.layers, step, parts, self.config.num_encoder_layers)
        parts = (self.dropout(self.encoder_norm(x), deterministic=deterministic) for x in parts)
        p_NxPxD, x_BxTxD = parts
        return jnp.concatenate([of_rows(p_NxPxD), x_BxTxD], axis=1)

    def _bias(self, mask_BxQxS, queries):
        """The mask, and the distances to the last `queries` positions.

        Layers that are scanned add the distances themselves, each with its own.
        """
        mask_Bx1xQxS = attention.mask_bias(mask_BxQxS)[:, None]
        if self.config.scan_layers:
            return attention.Bias(mask_Bx1xQxS)
        keys = mask_BxQxS.shape[-1]
        return attention.Bias(mask_Bx1xQxS, self.relpos_bias(queries, keys, keys - queries))


class ToLogits(nn.Module):
    """The end of a decoder: its norm and the output layer."""

    config: T5Config

    def setup(self):
        cfg = self.config
        self.decoder_norm = layers.LayerNorm(cfg)
        if not cfg.logits_via_embedding:
            # float32 whatever the activations: the loss needs it.
            self.logits_dense = layers.Kernel((cfg.emb_dim, cfg.vocab_size), ("embed", "vocab"))
        self.dropout = layers.dropout(cfg)

    def to_logits(self, y_BxLxD, token_embedder, deterministic) -> Float[Array, "batch L vocab"]:
        y_BxLxD = self.dropout(self.decoder_norm(y_BxLxD), deterministic=deterministic)
        y_BxLxD = y_BxLxD.astype(jnp.float32)
        if self.config.outputs_scaled:
            y_BxLxD *= self.config.emb_dim**-0.5
        if self.config.logits_via_embedding:
            return token_embedder.logits(y_BxLxD)
        return layers.dense(y_BxLxD, self.logits_dense())


class Decoder(ToLogits):
    """The decoder stack and the output layer."""

    token_embedder: layers.Embed

    def setup(self):
        super().setup()
        cfg = self.config
        if cfg.scan_layers:
            self.layers = [DecoderLayer(cfg, name="decoder")]
        else:
            self.layers = [DecoderLayer(cfg) for _ in range(cfg.num_decoder_layers)]
            self.relpos_bias = attention.RelativePositionBias(cfg, bidirectional=False)

    def __call__(
        self, encoded, tokens, cross_mask_BxLxS, segment_ids, deterministic, decode, cross_kv
    ):
        cache_index, make_cache = self._cache_state(decode, tokens.shape[1])
        self_bias = self._self_bias(tokens, segment_ids, cache_index)
        biases = self_bias, attention.Bias(attention.mask_bias(cross_mask_BxLxS)[:, None])
        y_BxLxD = self.dropout(self.token_embedder(tokens), deterministic=deterministic)

        def step(layer, y_BxLxD, kv):
            return layer(y_BxLxD, encoded, biases, deterministic, kv, cache_index, make_cache), None

        y_BxLxD, _ = scan.through(
            self.layers, step, y_BxLxD, self.config.num_decoder_layers, cross_kv
        )
        return self.to_logits(y_BxLxD, self.token_embedder, deterministic)

    def project_encoded(self, encoded_BxSxD: jax.Array) -> KeyValues:
        def step(layer, encoded_BxSxD, _):
            return encoded_BxSxD, layer.encoder_decoder_attention.project(encoded_BxSxD)

        return scan.through(self.layers, step, encoded_BxSxD, self.config.num_decoder_layers)[1]

    def _cache_state(self, decode: bool, length: int):
        """(where the next tokens go, whether to make an empty cache): a first call makes one."""
        if not decode:
            return None, False
        if not self.has_variable("cache", "cache_index"):
            self.put_variable("cache", "cache_index", jnp.zeros((), jnp.int32))
            return None, True
        cache_index = self.get_variable("cache", "cache_index")
        self.put_variable("cache", "cache_index", cache_index + length)
        return cache_index, False

    def _self_bias(self, tokens, segment_ids, cache_index) -> attention.Bias:
        """Causal mask and packing mask in one, and the relative-position bias.

        Padding of the targets needs no mask: it stands at the end, where causality hides it.
        """
        L = tokens.shape[1]
        keys = L if cache_index is None else self.layers[0].self_attention.cache_length()
        first = 0 if cache_index is None else cache_index
        causal_1xLxS = jnp.arange(keys)[None, None, :] <= first + jnp.arange(L)[None, :, None]
        mask_BxLxS = layout.within_segments(causal_1xLxS, segment_ids, segment_ids)
        mask_Bx1xLxS = attention.mask_bias(mask_BxLxS)[:, None]
        if self.config.scan_layers:
            return attention.Bias(mask_Bx1xLxS)
        return attention.Bias(mask_Bx1xLxS, self.relpos_bias(L, keys, first))


class Transformer(nn.Module):
    """A T5, called as `t5x.models.EncoderDecoderModel` calls its module.

    `prompt` makes the prompt module, as in `Transformer(config, lambda: Prompt(length=100))`; its
    parameter is `encoder/prompt/prompt`. Where a call gives `prompt_positions` [B, S],
    `encoder_input_tokens` is [B, S] with 0 at prompt positions (`layout.place_prompt` makes both).
    Where it does not, tokens are [B, T] and the prompt is placed among them as `prompt_layout` says
    (one of `layout.LAYOUTS`; before them unless another is given), S = P + T.
    """

    config: T5Config
    prompt: Callable[[], nn.Module] | None = None
    prompt_layout: str = "prefix"

    @property
    def scan_layers(self) -> bool:
        """Whether the cache has a leading layer axis, before the batch (T5X asks for this)."""
        return self.config.scan_layers

    def setup(self):
        if self.config.num_encoder_layers == 0:
            raise ValueError(
                "This T5Config has no encoder layers: decoder_only.DecoderOnly is its network."
            )
        self.token_embedder = layers.Embed(self.config)
        self.encoder = Encoder(self.config, self.token_embedder, self.prompt, self.prompt_layout)
        self.decoder = Decoder(self.config, self.token_embedder)

    def __call__(
        self,
        encoder_input_tokens: Int[Array, "batch length"],
        decoder_input_tokens: Int[Array, "batch targets"],
        decoder_target_tokens: Int[Array, "batch targets"],
        encoder_segment_ids: Int[Array, "batch length"] | None = None,
        decoder_segment_ids: Int[Array, "batch targets"] | None = None,
        encoder_positions: Int[Array, "batch length"] | None = None,
        decoder_positions: Int[Array, "batch targets"] | None = None,
        *,
        prompt_positions: Int[Array, "batch length"] | None = None,
        prompt_ids: Int[Array, "batch *length"] | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
    ) -> Float[Array, "batch targets vocab"]:
        """Logits of each next target token, float32.

        Segment ids say which positions of a packed row belong together; T5's positions are
        relative, so `encoder_positions` and `decoder_positions` change nothing, and neither do
        `decoder_target_tokens`: all three are there because T5X passes them. `decode=True` makes
        the cache that `decode` then fills, as long as the targets given here.
        """
        encoded = self.encode(
            encoder_input_tokens,
            encoder_segment_ids,
            enable_dropout,
            prompt_positions=prompt_positions,
            prompt_ids=prompt_ids,
        )
        return self.decode(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_positions,
            enable_dropout,
            decode,
            prompt_positions=prompt_positions,
        )

    def encode(
        self,
        encoder_input_tokens: Int[Array, "batch length"],
        encoder_segment_ids: Int[Array, "batch length"] | None = None,
        enable_dropout: bool = True,
        *,
        prompt_positions: Int[Array, "batch length"] | None = None,
        prompt_ids: Int[Array, "batch *length"] | None = None,
    ) -> Float[Array, "batch joined_length embed"]:
        """The encoder's output over tokens and prompt.

        Raises:
          ValueError: prompt positions without a prompt, packed rows without prompt positions, or
            several prompts without `prompt_ids`.
        """
        if self.prompt is None and (prompt_positions is not None or prompt_ids is not None):
            raise ValueError(
                "prompt_positions or prompt_ids given to a model without a prompt: build it as "
                "Transformer(config, lambda: Prompt(length))."
            )
        if self.prompt is not None and encoder_segment_ids is not None and prompt_positions is None:
            raise ValueError(
                "Packed rows need prompt_positions: only they say where each example's prompt is."
            )
        return self.encoder(
            encoder_input_tokens,
            prompt_positions,
            prompt_ids,
            encoder_segment_ids,
            deterministic=not enable_dropout,
        )

    def decode(
        self,
        encoded: Float[Array, "batch joined_length embed"],
        encoder_input_tokens: Int[Array, "batch length"],
        decoder_input_tokens: Int[Array, "batch targets"],
        decoder_target_tokens: Int[Array, "batch targets"],
        encoder_segment_ids: Int[Array, "batch length"] | None = None,
        decoder_segment_ids: Int[Array, "batch targets"] | None = None,
        decoder_positions: Int[Array, "batch targets"] | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        *,
        prompt_positions: Int[Array, "batch length"] | None = None,
        cross_kv: KeyValues | None = None,
    ) -> Float[Array, "batch targets vocab"]:
        """Logits of each next target token, float32.

        `encoder_input_tokens` (and `prompt_positions`) are what `encode` got; here they only say
        what is padding. With `decode=True` and a cache, `decoder_input_tokens` are the next ones
        only, usually one; the cache's own length counts, and `max_decode_length` is there because
        T5X passes it. `cross_kv` is `project_encoded(encoded)`.
        """
        if decode and encoder_segment_ids is not None:
            raise ValueError("Packed rows cannot be decoded step by step: unpack them first.")
        if (encoder_segment_ids is None) != (decoder_segment_ids is None):
            raise ValueError("Packed rows need both encoder_segment_ids and decoder_segment_ids.")
        attended_BxS = self._attended(encoded.shape[1], encoder_input_tokens, prompt_positions)
        cross_mask_BxLxS = layout.within_segments(
            attended_BxS[:, None, :], decoder_segment_ids, encoder_segment_ids
        )
        return self.decoder(
            encoded,
            decoder_input_tokens,
            cross_mask_BxLxS,
            decoder_segment_ids,
            deterministic=not enable_dropout,
            decode=decode,
            cross_kv=cross_kv,
        )

    def project_encoded(self, encoded: Float[Array, "batch joined_length embed"]) -> KeyValues:
        """Each decoder layer's cross-attention (key, value), [B, H, S, K]: once per input."""
        return self.decoder.project_encoded(encoded)

    def _attended(self, S: int, tokens, prompt_positions):
        """What the decoder may look at [B, S], whether or not `tokens` have room for the prompt."""
        prompt_length = S - tokens.shape[1]
        if self.prompt is not None and prompt_positions is None and prompt_length > 0:
            tokens, prompt_positions = layout.place_prompt(
                tokens, prompt_length, self.prompt_layout, self.config.eos_id
            )
        elif prompt_length != 0 or (self.prompt is not None and prompt_positions is None):
            raise ValueError(
                f"decode got {S} encoded positions and {tokens.shape[1]} encoder_input_tokens per "
                "row, which do not belong together: pass what encode got, prompt_positions too."
            )
        return layout.attended(tokens, prompt_positions)
