"""Which vocabulary a path gives."""

import os
from pathlib import Path

from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.vocabularies.files import (
    BPE_MERGES,
    BPE_VOCAB,
    FETCH,
    NAMES,
    SENTENCEPIECE,
    TOKENIZER,
    VocabularyFiles,
)
from prompt_tuning_jax.vocabularies.sentencepiece_model import SentencePieceVocabulary
from prompt_tuning_jax.vocabularies.tokenizer_json import TokenizerVocabulary
from prompt_tuning_jax.vocabularies.utf8_bytes import BYT5, ByteVocabulary
from prompt_tuning_jax.vocabularies.vocabulary import Vocabulary

MODEL_CONFIG = "config.json"


def load_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """The vocabulary of a model.

        load_vocabulary("t5-v1_1-small")
        load_vocabulary("t5-v1_1-small/spiece.model")

    Args:
      path: a directory, or one of the files that hold a vocabulary. Of a directory's the first
        counts: tokenizer.json, which may add tokens that the others have not; spiece.model;
        vocab.json with merges.txt; and bytes, which need no file, where tokenizer_config.json or
        config.json says ByT5Tokenizer.

    Raises:
      FileNotFoundError: there is none.
      ValueError: a file is corrupt, or of another kind.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"No vocabulary at {path}. Pass the path of a spiece.model or a tokenizer.json, or a "
            "directory that holds one."
        )
    files = VocabularyFiles.of(path)
    if TOKENIZER in files:
        return TokenizerVocabulary(files)
    if SENTENCEPIECE in files:
        return SentencePieceVocabulary.from_files(files)
    if BPE_VOCAB in files and BPE_MERGES in files:
        return TokenizerVocabulary(files)
    if BYT5 in (files.tokenizer_class, _model_class(path)):
        return ByteVocabulary(files)
    raise FileNotFoundError(_nothing_read(path, files))


def has_vocabulary(directory: Path) -> bool:
    """Whether a model's directory holds a vocabulary, of whichever kind."""
    files = {name for name in NAMES if (directory / name).is_file()}
    if {TOKENIZER, SENTENCEPIECE, BPE_VOCAB} & files:
        return True
    return BYT5 in (VocabularyFiles.of(directory).tokenizer_class, _model_class(directory))


def _model_class(path: Path) -> str | None:
    """The tokenizer's class that a model's config.json names."""
    config = (path if path.is_dir() else path.parent) / MODEL_CONFIG
    if not config.is_file():
        return None
    return json_object(config.read_bytes(), config, FETCH).get("tokenizer_class")


def _nothing_read(path: Path, files: VocabularyFiles) -> str:
    wanted = "tokenizer.json or spiece.model"
    named = files.tokenizer_class
    if named is not None:
        return (
            f"{path} has no {wanted}, which its {named} needs: fetch them, or save the tokenizer "
            "anew with transformers 5, which writes a tokenizer.json."
        )
    return f"{path} has no {wanted}: fetch one from where the model came from."
