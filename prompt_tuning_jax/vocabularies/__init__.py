"""Text to the token ids of a model and back, from whichever files the model came with."""

from prompt_tuning_jax.vocabularies.loading import load_vocabulary
from prompt_tuning_jax.vocabularies.sentencepiece_model import SentencePieceVocabulary
from prompt_tuning_jax.vocabularies.vocabulary import SpecialIds, Vocabulary

__all__ = ["SentencePieceVocabulary", "SpecialIds", "Vocabulary", "load_vocabulary"]
