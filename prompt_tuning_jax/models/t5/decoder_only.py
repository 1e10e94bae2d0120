"""A T5 without an encoder: a language model, or prefix language model, with one place for a prompt.

Interface, parameter tree and logical axes are those of T5X's decoder-only example, as
`t5x.models.DecoderOnlyModel` calls it. A row holds inputs and targets one after the other, and the
model reads it shifted by one position; `decoder_causal_attention` [B, T] is 1 at inputs, where
attention looks both ways (a prefix LM), and left out in a causal model.

B batch   T tokens of a row   S row length with the prompt   P prompt length   D embed   H heads
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning_jax import layout, prompts
from prompt_tuning_jax.models.t5 import attention, layers, scan
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.models.t5.network import ToLogits


class SelfAttention(attention.SelfAttention):
    """Self-attention whose cache may be filled to another place in every row."""

    def _remember(self, name: str, new_BxHxLxK: jax.Array, cache_index: jax.Array) -> jax.Array:
        if cache_index.ndim == 0:
            return super()._remember(name, new_BxHxLxK, cache_index)
        cached = self.get_variable("cache", name)
        is_new_BxS = jnp.arange(cached.shape[2])[None, :] == cache_index[:, None]
        cached = jnp.where(is_new_BxS[:, None, :, None], new_BxHxLxK.astype(cached.dtype), cached)
        self.put_variable("cache", name, cached)
        return cached


class Layer(nn.Module):
    config: T5Config

    def setup(self):
        cfg = self.config
        self.pre_self_attention_layer_norm = layers.LayerNorm(cfg)
        self.self_attention = SelfAttention(cfg)
        self.pre_mlp_layer_norm = layers.LayerNorm(cfg)
        self.mlp = layers.Mlp(cfg)
        self.dropout = layers.dropout(cfg)

    def __call__(self, x_BxSxD, bias, deterministic, cache_index, make_cache):
        y = self.pre_self_attention_layer_norm(x_BxSxD)
        y = self.self_attention(y, bias, deterministic, cache_index, make_cache)
        x_BxSxD = x_BxSxD + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x_BxSxD), deterministic)
        return x_BxSxD + self.dropout(y, deterministic=deterministic)


class Decoder(ToLogits):
    """The stack; the prompt joins its embedded input."""

    make_prompt: Callable[[], nn.Module] | None

    def setup(self):
        super().setup()
        cfg = self.config
        self.token_embedder = layers.Embed(cfg)
        self.relpos_bias = attention.RelativePositionBias(cfg, bidirectional=False)
        if self.make_prompt is not None:
            self.prompt = self.make_prompt()
        self.layers = [Layer(cfg) for _ in range(cfg.num_decoder_layers)]

    def whole_rows(
        self, tokens, inputs, prompts_at, segment_ids, deterministic, make_cache, prefill_lengths_B
    ):
        """Logits of every token [B, T]; makes the cache, or fills it as far as the lengths say."""
        x_BxSxD, inputs_BxS = self._embed(tokens, inputs, *prompts_at)
        S = x_BxSxD.shape[1]
        P = S - tokens.shape[1]  # 0 where the caller placed the prompt and counts its positions
        start = None
        if make_cache:
            self.put_variable("cache", "cache_index", jnp.zeros((), jnp.int32))
        if prefill_lengths_B is not None:
            start = self._refill(S, P + prefill_lengths_B)
        bias = self._row_bias(S, inputs_BxS, segment_ids)
        y_BxSxD = self._through_layers(x_BxSxD, bias, deterministic, start, make_cache)
        return self.to_logits(y_BxSxD[:, P:], self.token_embedder, deterministic)

    def next_token(self, tokens_Bx1, deterministic):
        """Logits after one more token in every row, which goes where the row's cache ends."""
        index = self.get_variable("cache", "cache_index")
        self._check_step(tokens_Bx1, index)
        self.put_variable("cache", "cache_index", index + 1)
        index_B = jnp.broadcast_to(index, tokens_Bx1.shape[:1])
        bias = self._step_bias(index_B, self.layers[0].self_attention.cache_length())
        x_Bx1xD = self.token_embedder(tokens_Bx1)
        y_Bx1xD = self._through_layers(x_Bx1xD, bias, deterministic, index_B, False)
        return self.to_logits(y_Bx1xD, self.token_embedder, deterministic)

    def _embed(self, tokens, inputs, prompt_positions, prompt_ids):
        """Embedded tokens with the prompt among them [B, S, D], and what is input [B, S]."""
        if self.make_prompt is None:
            return self.token_embedder(tokens), inputs
        values = self.prompt(self.config.emb_dim)
        if prompt_positions is None:
            inputs = None if inputs is None else layout.place_prompt(inputs, values.shape[-2])[0]
            tokens, prompt_positions = layout.place_prompt(tokens, values.shape[-2])
        joined = prompts.join(self.token_embedder(tokens), values, prompt_positions, prompt_ids)
        return joined, None if inputs is None else layout.attended(inputs, prompt_positions)

    def _through_layers(self, x, bias, deterministic, cache_index, make_cache):
        def step(layer, x, _):
            return layer(x, bias, deterministic, cache_index, make_cache), None

        x = self.dropout(x, deterministic=deterministic)
        return scan.through(self.layers, step, x, self.config.num_decoder_layers)[0]

    def _row_bias(self, S: int, inputs_BxS, segment_ids) -> attention.Bias:
        """Mask and relative-position bias.

        Padding needs no mask: it stands at the end, where causality hides it.
        """
        mask_BxSxS = jnp.arange(S)[None, None, :] <= jnp.arange(S)[None, :, None]
        if inputs_BxS is not None:
            is_input_BxS = inputs_BxS > 0
            mask_BxSxS |= is_input_BxS[:, :, None] & is_input_BxS[:, None, :]
        mask_BxSxS = layout.within_segments(mask_BxSxS, segment_ids, segment_ids)
        return attention.Bias(attention.mask_bias(mask_BxSxS)[:, None], self.relpos_bias(S, S))

    def _step_bias(self, index_B, S: int) -> attention.Bias:
        """The row of `_row_bias` at another position in every row."""
        # The last position looks back over every distance, and earlier ones over fewer.
        furthest_HxS = self.relpos_bias(1, S, S - 1)[0, :, 0]
        distance_BxS = index_B[:, None] - jnp.arange(S)[None, :]
        bias_HxBxS = furthest_HxS[:, jnp.clip(S - 1 - distance_BxS, 0, S - 1)]
        mask_BxS = attention.mask_bias(distance_BxS >= 0)
        bias_BxHx1xS = jnp.swapaxes(bias_HxBxS, 0, 1)[:, :, None]
        return attention.Bias(mask_BxS[:, None, None], bias_BxHx1xS)

    def _refill(self, S: int, lengths_B) -> Int[Array, ""]:
        """Where S positions go that replace what the cache holds, of which `lengths` will count."""
        if not self.has_variable("cache", "cache_index"):
            raise ValueError("There is no cache to fill: a call with decode=True makes it.")
        length = self.layers[0].self_attention.cache_length()
        if length != S:
            raise ValueError(
                f"The cache was made for rows of {length} positions, the prompt's included, and "
                f"these have {S}: make it from rows of the same length."
            )
        self.put_variable("cache", "cache_index", lengths_B.astype(jnp.int32))
        return jnp.zeros((), jnp.int32)

    def _check_step(self, tokens, index):
        if tokens.shape[1] != 1:
            raise ValueError(
                f"With a cache, decode=True takes one token a row, not {tokens.shape[1]}: use "
                "prefill=True for what comes before."
            )
        if self.make_prompt is not None and index.ndim == 0:
            raise ValueError(
                "The cache does not hold the prompt: a call with prefill=True puts it there, "
                "before the first with decode=True."
            )


class DecoderOnly(nn.Module):
    """A decoder-only T5, called as `t5x.models.DecoderOnlyModel` calls its module.

    `prompt` makes the prompt module, as in `DecoderOnly(config, lambda: Prompt(length=100))`; its
    parameter is `decoder/prompt/prompt`. A call that gives `prompt_positions` [B, S] speaks of rows
    with the prompt in them throughout: tokens (0 at prompt positions; `layout.place_prompt` makes
    both), other arrays, lengths and logits. Otherwise rows are [B, T], the prompt stands before
    them, and logits are those of the tokens only; `prompt_layout` can say nothing else.
    """

    config: T5Config
    prompt: Callable[[], nn.Module] | None = None
    prompt_layout: str = "prefix"

    def setup(self):
        if self.prompt_layout != "prefix":
            raise ValueError(
                f"A decoder-only model takes its prompt before the row, not as "
                f"{self.prompt_layout!r}, unless a call gives prompt_positions."
            )
        if self.config.num_encoder_layers or self.config.scan_layers:
            raise ValueError(
                "A decoder-only model needs T5Config(num_encoder_layers=0, scan_layers=False)."
            )
        self.decoder = Decoder(self.config, self.prompt)

    def __call__(
        self,
        decoder_input_tokens: Int[Array, "batch length"],
        decoder_target_tokens: Int[Array, "batch length"],
        decoder_segment_ids: Int[Array, "batch length"] | None = None,
        decoder_positions: Int[Array, "batch length"] | None = None,
        decoder_causal_attention: Int[Array, "batch length"] | None = None,
        *,
        prompt_positions: Int[Array, "batch length"] | None = None,
        prompt_ids: Int[Array, "batch *length"] | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        prefill: bool = False,
        prefill_lengths: Int[Array, "batch"] | None = None,
    ) -> Float[Array, "batch length vocab"]:
        """Logits of each next token, float32.

        Incremental decoding takes three kinds of calls: `decode=True` makes a cache for rows as
        long as those given; `prefill=True` reads the inputs (and the prompt) into it, of which the
        first `prefill_lengths` tokens of each row count; then `decode=True` with one token a row,
        each time the next one.

        `decoder_target_tokens`, `decoder_positions` and `max_decode_length` change nothing: T5X
        passes them.

        Raises:
          ValueError: calls that contradict each other, prompt positions without a prompt, or
            packed rows that do not say where their prompts are.
        """
        segments, positions = decoder_segment_ids, prompt_positions
        self._check_call(segments, positions, prompt_ids, decode, prefill, prefill_lengths)
        deterministic = not enable_dropout
        if decode and self.decoder.has_variable("cache", "cache_index"):
            return self.decoder.next_token(decoder_input_tokens, deterministic)
        return self.decoder.whole_rows(
            decoder_input_tokens,
            decoder_causal_attention,
            (positions, prompt_ids),
            segments,
            deterministic,
            make_cache=decode,
            prefill_lengths_B=prefill_lengths if prefill else None,
        )

    def _check_call(self, segments, positions, prompt_ids, decode, prefill, prefill_lengths):
        if self.prompt is None and (positions is not None or prompt_ids is not None):
            raise ValueError(
                "prompt_positions or prompt_ids given to a model without a prompt: build it as "
                "DecoderOnly(config, lambda: Prompt(length))."
            )
        if self.prompt is not None and segments is not None and positions is None:
            raise ValueError(
                "Packed rows need prompt_positions: only they say where each example's prompt is."
            )
        if decode and prefill:
            raise ValueError("decode and prefill are separate calls: first prefill, then decode.")
        if prefill and prefill_lengths is None:
            raise ValueError("prefill=True needs prefill_lengths: how many tokens of each row.")
        if (decode or prefill) and segments is not None:
            raise ValueError("Packed rows cannot be decoded step by step: unpack them first.")
