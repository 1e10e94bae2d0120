"""Texts as vectors: what an encoder makes of each position, pooled, and what follows the pooling.

Any of the networks here may be the encoder; a causal one is, too.
"""

from prompt_tuning_jax.models.embedding.config import EmbeddingConfig, Step

__all__ = ["EmbeddingConfig", "Step"]
