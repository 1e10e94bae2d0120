"""What defines a T5Gemma's shape and arithmetic: a CausalConfig for each of its two stacks."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from prompt_tuning_jax.layout import VISIBILITIES
from prompt_tuning_jax.models.causal.config import CausalConfig
from prompt_tuning_jax.models.encoder_decoder import EncoderDecoder

# What the stacks have of the whole model.
_SHARED = (
    "dropout_rate",
    "dtype",
    "pad_id",
    "eos_id",
    "start_id",
    "scan_layers",
    "remat_policy",
    "attention",
    "attention_chunk",
)
# What every T5Gemma has; what is embedded is scaled after the prompt has joined it.
_GEMMA = {"norm_plus_one": True, "post_norms": True, "scale_embedding": False}


@dataclasses.dataclass(frozen=True)
class T5GemmaConfig(EncoderDecoder):
    """Two stacks, which may differ in everything but their vocabulary.

    Attributes:
      encoder: its positions see both ways: all others, or those at most `window` away.
      decoder: it says whether the output layer is its embedding table (each stack has its own),
        and caps the logits.
      start_id: the id that the decoder starts from.
      prompt_visibility: what a prompt's positions attend to in the encoder, as in `T5Config`.
      dropout_rate, dtype, pad_id, eos_id, scan_layers, remat_policy, attention, attention_chunk: as
        in `T5Config`. The stacks take these, and start_id, from here, whatever they say themselves.
    """

    encoder: CausalConfig
    decoder: CausalConfig
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    pad_id: int = 0
    eos_id: int = 1
    start_id: int = 2
    scan_layers: bool = False
    remat_policy: str = "none"
    prompt_visibility: str = "full"
    attention: str = "auto"
    attention_chunk: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        shared = _GEMMA | {name: getattr(self, name) for name in _SHARED}
        for name in ("encoder", "decoder"):
            stack = dataclasses.replace(getattr(self, name), **shared)
            object.__setattr__(self, name, stack)
        if self.encoder.vocab_size != self.decoder.vocab_size:
            raise ValueError(
                f"A T5Gemma's stacks have one vocabulary, but the encoder embeds "
                f"{self.encoder.vocab_size} ids and the decoder {self.decoder.vocab_size}."
            )
        if self.prompt_visibility not in VISIBILITIES:
            raise ValueError(
                f"T5GemmaConfig.prompt_visibility is one of {', '.join(VISIBILITIES)}, not "
                f"{self.prompt_visibility!r}."
            )

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        return self.decoder.vocab_size

    @property
    def emb_dim(self) -> int:
        """The width of what the encoder reads, the prompt among it."""
        return self.encoder.emb_dim

    @property
    def num_heads(self) -> int:
        """Of the encoder."""
        return self.encoder.num_heads

    @property
    def num_kv_heads(self) -> int:
        """The most parts that the heads of keys and values of both stacks divide into."""
        return math.gcd(self.encoder.num_kv_heads, self.decoder.num_kv_heads)

    @property
    def logits_via_embedding(self) -> bool:
        """Whether the output layer is the decoder's embedding table."""
        return self.decoder.logits_via_embedding
