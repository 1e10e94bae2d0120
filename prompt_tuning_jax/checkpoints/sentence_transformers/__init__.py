"""Embedding models as sentence-transformers saves them: a network, and what modules.json adds."""

from prompt_tuning_jax.checkpoints.sentence_transformers.model import EmbeddingFiles, open_model
from prompt_tuning_jax.checkpoints.sentence_transformers.modules import MODULES, is_embedding_model

__all__ = ["MODULES", "EmbeddingFiles", "is_embedding_model", "open_model"]
