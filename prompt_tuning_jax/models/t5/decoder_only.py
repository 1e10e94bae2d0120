"""A T5 without an encoder: a language model, or prefix language model, with one place for a prompt.

Interface, parameter tree and logical axes are those of T5X's decoder-only example, as
`t5x.models.DecoderOnlyModel` calls it. A row holds inputs and targets one after the other, and the
model reads it shifted by one position; `decoder_causal_attention` [B, T] is 1 at inputs, where
attention looks both ways (a prefix LM), and left out in a causal model.

B batch   T tokens of a row   S row length with the prompt   P prompt length   D embed   H heads
V vocabulary
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax import layout, prompts
from prompt_tuning_jax.models.attention.bias import Bias, mask_bias
from prompt_tuning_jax.models.t5 import cache, layers, scan
from prompt_tuning_jax.models.t5.attention import SelfAttention
from prompt_tuning_jax.models.t5.attention_bias import RelativePositionBias
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.models.t5.decoder import ToLogits
from prompt_tuning_jax.prompts import PromptIds


class Layer(nn.Module):
    """Self-attention and an MLP; each adds to its input what it makes of the normed input."""

    config: T5Config

    def setup(self):
        cfg = self.config
        self.pre_self_attention_layer_norm = layers.LayerNorm(cfg)
        self.self_attention = SelfAttention(cfg)
        self.pre_mlp_layer_norm = layers.LayerNorm(cfg)
        self.mlp = layers.Mlp(cfg)
        self.dropout = layers.dropout(cfg)

    def __call__(
        self,
        x_BxSxD: Float[Array, "B S D"],
        *,
        bias: Bias,
        deterministic: bool,
        cache_index: Int[Array, ""] | Int[Array, " B"] | None,
        make_cache: bool,
    ) -> Float[Array, "B S D"]:
        # Self-attention block.
        y_BxSxD = self.pre_self_attention_layer_norm(x_BxSxD)
        y_BxSxD = self.self_attention(
            y_BxSxD,
            bias=bias,
            deterministic=deterministic,
            cache_index=cache_index,
            make_cache=make_cache,
        )
        x_BxSxD = x_BxSxD + self.dropout(y_BxSxD, deterministic=deterministic)

        # MLP block.
        y_BxSxD = self.pre_mlp_layer_norm(x_BxSxD)
        y_BxSxD = self.mlp(y_BxSxD, deterministic=deterministic)
        return x_BxSxD + self.dropout(y_BxSxD, deterministic=deterministic)


class Decoder(ToLogits):
    """The layers, the output layer, and the prompt before them."""

    make_prompt: Callable[[], nn.Module] | None

    def setup(self):
        super().setup()
        cfg = self.config
        self.token_embedder = layers.Embed(cfg)
        self.relpos_bias = RelativePositionBias(cfg, bidirectional=False)
        if self.make_prompt is not None:
            self.prompt = self.make_prompt()
        self.layers = [Layer(cfg) for _ in range(cfg.num_decoder_layers)]

    def whole_rows(
        self,
        tokens_BxT: Int[Array, "B T"],
        *,
        inputs_BxT: Int[Array, "B T"] | None,
        prompt_positions: Int[Array, "B S"] | None,
        prompt_ids: PromptIds | None,
        segment_ids: Int[Array, "B T"] | None,
        deterministic: bool,
        make_cache: bool,
        prefill_lengths_B: Int[Array, " B"] | None,
    ) -> Float[Array, "B T V"]:
        """Logits of every token; makes the cache, or fills it as far as the lengths say."""
        x_BxSxD, is_input_BxS = self._embed(tokens_BxT, inputs_BxT, prompt_positions, prompt_ids)
        S = x_BxSxD.shape[1]
        P = S - tokens_BxT.shape[1]  # 0 where the caller placed the prompt and counts its positions
        start = None
        if make_cache:
            self.put_variable("cache", cache.INDEX, jnp.zeros((), jnp.int32))
        if prefill_lengths_B is not None:
            start = self._refill(S, P + prefill_lengths_B)
        y_BxSxD = self._through_layers(
            x_BxSxD,
            bias=self._row_bias(S, is_input_BxS, segment_ids),
            deterministic=deterministic,
            cache_index=start,
            make_cache=make_cache,
        )
        return self.to_logits(y_BxSxD[:, P:], self.token_embedder, deterministic)

    def next_token(
        self, tokens_Bx1: Int[Array, "B 1"], deterministic: bool
    ) -> Float[Array, "B 1 V"]:
        """Logits after one more token in every row, which goes where the row's cache ends."""
        index = self.get_variable("cache", cache.INDEX)
        self.put_variable("cache", cache.INDEX, index + 1)
        index_B = jnp.broadcast_to(index, tokens_Bx1.shape[:1])
        y_Bx1xD = self._through_layers(
            self.token_embedder(tokens_Bx1),
            bias=self._step_bias(index_B, cache.length(self.layers[0].self_attention)),
            deterministic=deterministic,
            cache_index=index_B,
            make_cache=False,
        )
        return self.to_logits(y_Bx1xD, self.token_embedder, deterministic)

    def _embed(
        self,
        tokens: Int[Array, "B T"],
        inputs: Int[Array, "B T"] | None,
        prompt_positions: Int[Array, "B S"] | None,
        prompt_ids: PromptIds | None,
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"] | None]:
        """The embedded row with the prompt in it, and True where a position is input."""
        if self.make_prompt is None:
            return self.token_embedder(tokens), None if inputs is None else layout.attended(inputs)
        prompt = self.prompt(self.config.emb_dim)
        if prompt_positions is None:
            P, pad_id = prompt.shape[-2], self.config.pad_id
            # `inputs` are no ids: 0 is what is no input, whichever id pads.
            inputs = None if inputs is None else layout.place_prompt(inputs, P)[0]
            tokens, prompt_positions = layout.place_prompt(tokens, P, pad_id=pad_id)
        x_BxSxD = self.token_embedder(tokens)
        # Where the prompt joins the embedded input.
        x_BxSxD = prompts.join(x_BxSxD, prompt, prompt_positions, prompt_ids)
        return x_BxSxD, None if inputs is None else layout.attended(inputs, prompt_positions)

    def _through_layers(
        self,
        x_BxSxD: Float[Array, "B S D"],
        *,
        bias: Bias,
        deterministic: bool,
        cache_index: Int[Array, ""] | Int[Array, " B"] | None,
        make_cache: bool,
    ) -> Float[Array, "B S D"]:
        def step(layer, x_BxSxD, _):
            x_BxSxD = layer(
                x_BxSxD,
                bias=bias,
                deterministic=deterministic,
                cache_index=cache_index,
                make_cache=make_cache,
            )
            return x_BxSxD, None

        x_BxSxD = self.dropout(x_BxSxD, deterministic=deterministic)
        return scan.through(self.layers, step, x_BxSxD, depth=self.config.num_decoder_layers)[0]

    def _row_bias(
        self,
        S: int,
        is_input_BxS: Bool[Array, "B S"] | None,
        segment_ids: Int[Array, "B S"] | None,
    ) -> Bias:
        """Mask and relative-position bias of whole rows.

        Padding needs no mask: it stands at the end, where causality hides it.
        """
        mask_BxSxS = jnp.arange(S)[None, None, :] <= jnp.arange(S)[None, :, None]
        if is_input_BxS is not None:
            mask_BxSxS |= is_input_BxS[:, :, None] & is_input_BxS[:, None, :]
        mask_BxSxS = layout.within_segments(mask_BxSxS, segment_ids, segment_ids)
        return Bias.of(mask_bias(mask_BxSxS), self.relpos_bias(S, S))

    def _step_bias(self, index_B: Int[Array, " B"], S: int) -> Bias:
        """The line of `_row_bias` for one query in each row, at position `index`."""
        # The last position looks back over every distance, and earlier ones over fewer.
        furthest_HxS = self.relpos_bias(1, S, S - 1)
        distance_BxS = index_B[:, None] - jnp.arange(S)[None, :]
        bias_HxBxS = furthest_HxS[:, jnp.clip(S - 1 - distance_BxS, 0, S - 1)]
        bias_BxHx1xS = jnp.swapaxes(bias_HxBxS, 0, 1)[:, :, None]
        return Bias(mask_bias((distance_BxS >= 0)[:, None]), bias_BxHx1xS)

    def _refill(self, S: int, lengths_B: Int[Array, " B"]) -> Int[Array, ""]:
        """Makes the cache's contents count as `lengths` positions of each row.

        Returns:
          where the S positions go that are to be the contents: to its start.
        """
        if not self.has_variable("cache", cache.INDEX):
            raise ValueError("There is no cache to fill: a call with decode=True makes it.")
        length = cache.length(self.layers[0].self_attention)
        if length != S:
            raise ValueError(
                f"The cache was made for rows of {length} positions, the prompt's included, and "
                f"these have {S}: make it from rows of the same length."
            )
        self.put_variable("cache", cache.INDEX, lengths_B.astype(jnp.int32))
        return jnp.zeros((), jnp.int32)

    def check_next_token(self, tokens_BxT: Int[Array, "B T"]) -> None:
        """ValueError where `next_token` cannot take these tokens, or not yet."""
        if tokens_BxT.shape[1] != 1:
            raise ValueError(
                f"With a cache, decode=True takes one token a row, not {tokens_BxT.shape[1]}: use "
                "prefill=True for what comes before."
            )
        if self.make_prompt is not None and self.get_variable("cache", cache.INDEX).ndim == 0:
            raise ValueError(
                "The cache does not hold the prompt: a call with prefill=True puts it there, "
                "before the first with decode=True."
            )


class DecoderOnly(nn.Module):
    """A decoder-only T5, called as `t5x.models.DecoderOnlyModel` calls its module.

    `prompt` makes the prompt module, as in `DecoderOnly(config, lambda: Prompt(length=100))`; its
    parameter is `decoder/prompt/prompt`. A call says in one of two ways where the prompt stands:

    - It gives `prompt_positions` [B, S]. Then rows hold the prompt throughout, T = S: tokens (0 at
      prompt positions; `layout.place_prompt` makes both), the other arrays, lengths and logits.
    - It gives none. Then the prompt stands before rows of [B, T], and logits are those of the
      tokens only. `prompt_layout` can say nothing else.
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
        self.decoder = Decoder(self.config, make_prompt=self.prompt)

    def __call__(
        self,
        decoder_input_tokens: Int[Array, "B T"],
        decoder_target_tokens: Int[Array, "B T"],
        decoder_segment_ids: Int[Array, "B T"] | None = None,
        decoder_positions: Int[Array, "B T"] | None = None,
        decoder_causal_attention: Int[Array, "B T"] | None = None,
        *,
        prompt_positions: Int[Array, "B S"] | None = None,
        prompt_ids: PromptIds | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        prefill: bool = False,
        prefill_lengths: Int[Array, " B"] | None = None,
    ) -> Float[Array, "B T V"]:
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
        self._check_prompt(decoder_segment_ids, prompt_positions, prompt_ids)
        self._check_decoding(decoder_segment_ids, decode, prefill, prefill_lengths)
        deterministic = not enable_dropout
        if decode and self.decoder.has_variable("cache", cache.INDEX):
            self.decoder.check_next_token(decoder_input_tokens)
            return self.decoder.next_token(decoder_input_tokens, deterministic)
        return self.decoder.whole_rows(
            decoder_input_tokens,
            inputs_BxT=decoder_causal_attention,
            prompt_positions=prompt_positions,
            prompt_ids=prompt_ids,
            segment_ids=decoder_segment_ids,
            deterministic=deterministic,
            make_cache=decode,
            prefill_lengths_B=prefill_lengths if prefill else None,
        )

    def _check_prompt(self, segment_ids, prompt_positions, prompt_ids) -> None:
        if self.prompt is None and (prompt_positions is not None or prompt_ids is not None):
            raise ValueError(
                "prompt_positions or prompt_ids given to a model without a prompt: build it as "
                "DecoderOnly(config, lambda: Prompt(length))."
            )
        if self.prompt is not None and segment_ids is not None and prompt_positions is None:
            raise ValueError(
                "Packed rows need prompt_positions: only they say where each example's prompt is."
            )

    def _check_decoding(self, segment_ids, decode, prefill, prefill_lengths) -> None:
        if decode and prefill:
            raise ValueError("decode and prefill are separate calls: first prefill, then decode.")
        if prefill and prefill_lengths is None:
            raise ValueError("prefill=True needs prefill_lengths: how many tokens of each row.")
        if (decode or prefill) and segment_ids is not None:
            raise ValueError("Packed rows cannot be decoded step by step: unpack them first.")
