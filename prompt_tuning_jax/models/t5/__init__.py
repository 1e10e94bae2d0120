"""The frozen T5, with one place for a prompt; under T5X there is a decoder-only one too."""

from prompt_tuning_jax.models.t5.config import T5Config, mt5, t5_1_0, t5_1_1
from prompt_tuning_jax.models.t5.decoder_only import DecoderOnly
from prompt_tuning_jax.models.t5.network import Transformer

__all__ = ["DecoderOnly", "T5Config", "Transformer", "mt5", "t5_1_0", "t5_1_1"]
