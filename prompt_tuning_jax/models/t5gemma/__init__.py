"""Frozen T5Gemma: an encoder and a decoder of Gemma 2's blocks, which are `models.causal`'s."""

from prompt_tuning_jax.models.t5gemma.config import T5GemmaConfig

__all__ = ["T5GemmaConfig"]
