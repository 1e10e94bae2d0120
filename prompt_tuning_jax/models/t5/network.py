"""T5 with one place for a prompt. Interface, parameter tree and logical axes are T5X's.

B batch   S joined length   T input tokens   P prompt length   L target length
D embed   H heads   K head dim   V vocabulary
"""

from collections.abc import Callable

from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax import layout
from prompt_tuning_jax.models.t5 import isolated_prompt, layers
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.models.t5.cross_keys_values import KeyValues
from prompt_tuning_jax.models.t5.decoder import Decoder
from prompt_tuning_jax.models.t5.encoder import Encoder
from prompt_tuning_jax.models.t5.longt5.encoder import LongEncoder
from prompt_tuning_jax.prompts import PromptIds


class Transformer(nn.Module):
    """A T5, called as `t5x.models.EncoderDecoderModel` calls its module.

    `prompt` makes the prompt module, as in `Transformer(config, lambda: Prompt(length=100))`; its
    parameter is `encoder/prompt/prompt`. A call says in one of two ways where the prompt stands:

    - It gives `prompt_positions` [B, S]. Then `encoder_input_tokens` are [B, S] too, padding at
      prompt positions (`layout.place_prompt` makes both): T = S.
    - It gives tokens [B, T] only. Then the prompt is placed among them as `prompt_layout` says (one
      of `layout.LAYOUTS`; before them unless another is given): S = P + T.
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
        encoder_class = Encoder if self.config.encoder_attention == "full" else LongEncoder
        self.encoder = encoder_class(
            self.config,
            token_embedder=self.token_embedder,
            make_prompt=self.prompt,
            prompt_layout=self.prompt_layout,
        )
        self.decoder = Decoder(self.config, token_embedder=self.token_embedder)

    def __call__(
        self,
        encoder_input_tokens: Int[Array, "B T"],
        decoder_input_tokens: Int[Array, "B L"],
        decoder_target_tokens: Int[Array, "B L"],
        encoder_segment_ids: Int[Array, "B T"] | None = None,
        decoder_segment_ids: Int[Array, "B L"] | None = None,
        encoder_positions: Int[Array, "B T"] | None = None,
        decoder_positions: Int[Array, "B L"] | None = None,
        *,
        prompt_positions: Int[Array, "B S"] | None = None,
        prompt_ids: PromptIds | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
    ) -> Float[Array, "B L V"]:
        """Logits of each next target token, float32: `encode`, then `decode`.

        Segment ids say which positions of a packed row belong together. `decode=True` makes the
        cache that calls of `decode` then fill, with room for as many targets as are given here.

        `decoder_target_tokens`, `encoder_positions` and `decoder_positions` change nothing (T5's
        positions are relative): they are there because T5X passes them.

        Raises:
          ValueError: as `encode` and `decode` do.
        """
        encoded_BxSxD = self.encode(
            encoder_input_tokens,
            encoder_segment_ids=encoder_segment_ids,
            enable_dropout=enable_dropout,
            prompt_positions=prompt_positions,
            prompt_ids=prompt_ids,
        )
        return self.decode(
            encoded_BxSxD,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids=encoder_segment_ids,
            decoder_segment_ids=decoder_segment_ids,
            decoder_positions=decoder_positions,
            enable_dropout=enable_dropout,
            decode=decode,
            prompt_positions=prompt_positions,
        )

    def encode(
        self,
        encoder_input_tokens: Int[Array, "B T"],
        encoder_segment_ids: Int[Array, "B T"] | None = None,
        enable_dropout: bool = True,
        *,
        prompt_positions: Int[Array, "B S"] | None = None,
        prompt_ids: PromptIds | None = None,
    ) -> Float[Array, "B S D"]:
        """The encoder's output over tokens and prompt.

        `prompt_ids` says which prompt of a bank each row (or position, in packed rows) uses.

        Raises:
          ValueError: prompt positions or ids without a prompt, packed rows without prompt
            positions, or several prompts without `prompt_ids`.
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
            prompt_positions=prompt_positions,
            prompt_ids=prompt_ids,
            segment_ids=encoder_segment_ids,
            deterministic=not enable_dropout,
        )

    def encode_apart(
        self, prompts: Float[Array, "N P D"], is_prompt: Bool[Array, "N P"]
    ) -> isolated_prompt.Apart:
        """Prompts that see nothing of any input, for `encode_behind`; shorter ones are at the end.

        `is_prompt` says where. For a model that holds no prompt itself.
        """
        return isolated_prompt.through(self.encoder, prompts, is_prompt, deterministic=True)

    def encode_behind(
        self,
        encoder_input_tokens: Int[Array, "B T"],
        apart: isolated_prompt.Apart,
        prompt_ids: Int[Array, " B"],
        is_prompt: Bool[Array, "B P"],
    ) -> Float[Array, "B S D"]:
        """`encode` of rows behind some of these prompts, without dropout."""
        return isolated_prompt.behind(
            self.encoder, encoder_input_tokens, apart, prompt_ids, is_prompt, deterministic=True
        )

    def decode(
        self,
        encoded: Float[Array, "B S D"],
        encoder_input_tokens: Int[Array, "B T"],
        decoder_input_tokens: Int[Array, "B L"],
        decoder_target_tokens: Int[Array, "B L"],
        encoder_segment_ids: Int[Array, "B T"] | None = None,
        decoder_segment_ids: Int[Array, "B L"] | None = None,
        decoder_positions: Int[Array, "B L"] | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        *,
        prompt_positions: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B L V"]:
        """Logits of each next target token, float32.

        `encoder_input_tokens` and `prompt_positions` are what `encode` got; here they only say
        what is padding. With `decode=True` and a cache, `decoder_input_tokens` are the next ones
        only, usually one.

        `decoder_target_tokens`, `decoder_positions` and `max_decode_length` (the cache has its own
        length) change nothing: they are there because T5X passes them.

        Raises:
          ValueError: packed rows step by step, or with segment ids of one side only; tokens that
            are not those of `encoded`.
        """
        if decode and encoder_segment_ids is not None:
            raise ValueError("Packed rows cannot be decoded step by step: unpack them first.")
        if (encoder_segment_ids is None) != (decoder_segment_ids is None):
            raise ValueError("Packed rows need both encoder_segment_ids and decoder_segment_ids.")
        attended_BxS = self.attended(encoded.shape[1], encoder_input_tokens, prompt_positions)
        cross_mask_BxLxS = layout.within_segments(
            attended_BxS[:, None, :], decoder_segment_ids, encoder_segment_ids
        )
        return self.decoder(
            encoded,
            decoder_input_tokens,
            cross_mask_BxLxS=cross_mask_BxLxS,
            segment_ids=decoder_segment_ids,
            deterministic=not enable_dropout,
            decode=decode,
            cross_kv=None,
        )

    def decode_after(
        self,
        decoder_input_tokens: Int[Array, "B L"],
        attended: Bool[Array, "B S"],
        cross_kv: KeyValues,
        *,
        decode: bool,
    ) -> Float[Array, "B L V"]:
        """`decode` without dropout, in many calls that share `project_encoded` and `attended`."""
        return self.decoder(
            None,
            decoder_input_tokens,
            cross_mask_BxLxS=attended[:, None, :],
            segment_ids=None,
            deterministic=True,
            decode=decode,
            cross_kv=cross_kv,
        )

    def project_encoded(self, encoded: Float[Array, "B S D"]) -> KeyValues:
        """Every decoder layer's cross-attention keys and values [B, H, S, K]."""
        return self.decoder.project_encoded(encoded)

    def attended(
        self,
        S: int,
        tokens_BxT: Int[Array, "B T"],
        prompt_positions: Int[Array, "B S"] | None,
    ) -> Bool[Array, "B S"]:
        """True at those of the encoder's S positions that are not padding."""
        prompt_length = S - tokens_BxT.shape[1]
        if self.prompt is not None and prompt_positions is None and prompt_length > 0:
            tokens_BxS, prompt_positions = layout.place_prompt(
                tokens_BxT,
                prompt_length,
                self.prompt_layout,
                self.config.eos_id,
                self.config.pad_id,
            )
            return layout.attended(tokens_BxS, prompt_positions, self.config.pad_id)
        if prompt_length != 0 or (self.prompt is not None and prompt_positions is None):
            raise ValueError(
                f"decode got {S} encoded positions and {tokens_BxT.shape[1]} encoder_input_tokens "
                "per row, which do not belong together: pass what encode got, prompt_positions too."
            )
        return layout.attended(tokens_BxT, prompt_positions, self.config.pad_id)
