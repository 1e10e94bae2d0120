"""Which vocabulary a path gives."""

import os
from collections.abc import Callable
from pathlib import Path

from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.vocabularies.files import (
    BPE_MERGES,
    BPE_VOCAB,
    FETCH,
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
        config.json says ByT5Tokenizer. A file under a name of its own is a tokenizer.json if it
        holds JSON, else a spiece.model.

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
    read = _reader(path, files)
    if read is None:
        raise FileNotFoundError(_nothing_read(path, files))
    return read(files)


def has_vocabulary(directory: Path) -> bool:
    """Whether a model's directory holds a vocabulary, of whichever kind."""
    return _reader(directory, VocabularyFiles.of(directory)) is not None


def _reader(path: Path, files: VocabularyFiles) -> Callable[[VocabularyFiles], Vocabulary] | None:
    """What reads the files that were found at a path; None if they hold no vocabulary."""
    if TOKENIZER in files:
        return TokenizerVocabulary
    if SENTENCEPIECE in files:
        return SentencePieceVocabulary.from_files
    if BPE_VOCAB in files and BPE_MERGES in files:
        return TokenizerVocabulary
    if BYT5 in (files.tokenizer_class, _model_class(path)):
        return ByteVocabulary
    return None


def _model_class(path: Path) -> str | None:
    """The tokenizer's class that a model's config.json names."""
    config = (path if path.is_dir() else path.parent) / MODEL_CONFIG
    if not config.is_file():
        return None
    return json_object(config.read_bytes(), config, FETCH).get("tokenizer_class")


def _nothing_read(path: Path, files: VocabularyFiles) -> str:
    anew = "save the tokenizer anew with transformers 5, which writes a tokenizer.json."
    for one, other in ((BPE_VOCAB, BPE_MERGES), (BPE_MERGES, BPE_VOCAB)):
        if one in files:
            return (
                f"{path}: {one} needs {other} beside it, which is not there. Fetch it from where "
                f"the model came from, or {anew}"
            )
    wanted = "tokenizer.json or spiece.model"
    named = files.tokenizer_class
    if named is not None:
        return f"{path} has no {wanted}, which its {named} needs: fetch them, or {anew}"
    return f"{path} has no {wanted}: fetch one from where the model came from."
