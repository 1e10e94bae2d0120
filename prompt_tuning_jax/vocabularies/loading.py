"""Which vocabulary a path gives."""

import os
from pathlib import Path

from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.vocabularies.sentencepiece_model import (
    CONFIG,
    SENTENCEPIECE,
    SentencePieceVocabulary,
)
from prompt_tuning_jax.vocabularies.vocabulary import Vocabulary


def load_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """The vocabulary of a `spiece.model`, or of a directory that holds one.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it is corrupt.
    """
    path = Path(path).expanduser()
    path = path / SENTENCEPIECE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"No SentencePiece model at {path}. Pass the path of a spiece.model file."
        )
    config, facts = path.with_name(CONFIG), {}
    if config.is_file():
        facts = json_object(config.read_bytes(), config, "Fetch it again.")
    return SentencePieceVocabulary(path.read_bytes(), facts.get("extra_ids", 100), str(path))
