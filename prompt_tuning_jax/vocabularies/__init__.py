"""Text to the token ids of a model and back, from whichever files the model came with."""

from prompt_tuning_jax.vocabularies.loading import has_vocabulary, load_vocabulary
from prompt_tuning_jax.vocabularies.sentencepiece_model import SentencePieceVocabulary
from prompt_tuning_jax.vocabularies.tokenizer_json import TokenizerVocabulary
from prompt_tuning_jax.vocabularies.utf8_bytes import ByteVocabulary
from prompt_tuning_jax.vocabularies.vocabulary import T5_IDS, SpecialIds, Vocabulary

__all__ = [
    "T5_IDS",
    "ByteVocabulary",
    "SentencePieceVocabulary",
    "SpecialIds",
    "TokenizerVocabulary",
    "Vocabulary",
    "has_vocabulary",
    "load_vocabulary",
]
