"""What is chosen when a run starts: where data sets lie, and the vocabulary that makes token ids.

Tasks read both at the moment of use, so importing a tasks module touches neither disk nor network:

    settings.use(data_dir="data", vocabulary="models/t5-base/spiece.model")

Each is the first that is given of: what `use` was told; the environment variable
(PROMPT_TUNING_DATA_DIR, PROMPT_TUNING_VOCABULARY); and the default, which is TFDS and T5's
published vocabulary. No task module has a gin configurable: T5X imports them when gin is locked.
"""

import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
import seqio
import tensorflow as tf

from prompt_tuning_jax.tasks.model_vocabulary import EXTRA_IDS, ModelVocabulary
from prompt_tuning_jax.vocabularies import SentencePieceVocabulary, Vocabulary, load_vocabulary

T5_VOCABULARY = "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"
ENVIRONMENT = {
    "data_dir": "PROMPT_TUNING_DATA_DIR",
    "vocabulary": "PROMPT_TUNING_VOCABULARY",
}

AnyVocabulary = str | os.PathLike | Vocabulary | seqio.Vocabulary

_chosen: dict[str, str | os.PathLike | AnyVocabulary | None] = {}


def use(
    *, data_dir: str | os.PathLike | None = None, vocabulary: AnyVocabulary | None = None
) -> None:
    """Chooses for this process; what is not given stays as it was.

    Args:
      data_dir: the directory that holds data sets in their official release forms.
      vocabulary: the path of a spiece.model, or of a directory or tokenizer.json that
        `load_vocabulary` reads; or the vocabulary of a loaded model, or SeqIO's.
    """
    given = {"data_dir": data_dir, "vocabulary": vocabulary}
    _chosen.update({name: value for name, value in given.items() if value is not None})


@contextlib.contextmanager
def using(**choices) -> Iterator[None]:
    """`use` within a `with` block; None goes back to what gin, environment or default say."""
    before = dict(_chosen)
    _chosen.update(choices)
    try:
        yield
    finally:
        _chosen.clear()
        _chosen.update(before)


def data_dir() -> str | None:
    """The directory with data sets in their official release forms; None means TFDS."""
    chosen = _chosen.get("data_dir") or os.environ.get(ENVIRONMENT["data_dir"])
    return os.fspath(chosen) if chosen else None


def vocabulary() -> seqio.Vocabulary:
    """The vocabulary of every task's features.

    Raises:
      FileNotFoundError: there is no such spiece.model, or it cannot be reached.
      ValueError: the file is no SentencePiece model, or texts begin with a special token.
    """
    environment = os.environ.get(ENVIRONMENT["vocabulary"])
    chosen = _chosen.get("vocabulary") or environment or T5_VOCABULARY
    if isinstance(chosen, seqio.Vocabulary):
        return chosen
    if isinstance(chosen, SentencePieceVocabulary) and not chosen.added_tokens:
        return _from_bytes(chosen)
    if isinstance(chosen, Vocabulary):
        return ModelVocabulary(chosen)
    path = os.fspath(chosen)
    if path.endswith(".json") or os.path.isdir(path):
        return ModelVocabulary(load_vocabulary(path))
    return read_vocabulary(path)


@functools.cache
def read_vocabulary(path: str) -> seqio.SentencePieceVocabulary:
    """The vocabulary in a spiece.model, with T5's extra ids where the file does not hold them.

    Raises:
      FileNotFoundError, ValueError: as `vocabulary`.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            model = SentencePieceVocabulary(file.read(), EXTRA_IDS, path)
    except tf.errors.OpError as error:
        raise FileNotFoundError(
            f"No SentencePiece model at {path} ({error.message}). Set {ENVIRONMENT['vocabulary']} "
            "(under T5X VOCABULARY_FILE) to the model's spiece.model."
        ) from error
    return seqio.SentencePieceVocabulary(path, _added_ids(model))


@functools.lru_cache(maxsize=4)
def _from_bytes(model: SentencePieceVocabulary) -> seqio.SentencePieceVocabulary:
    """SeqIO reads files only, so the model's bytes go into one that is named by what it holds."""
    digest = hashlib.sha256(model.model_bytes).hexdigest()
    path = Path(_scratch().name) / f"{digest}.model"
    if not path.is_file():
        path.write_bytes(model.model_bytes)
    return seqio.SentencePieceVocabulary(str(path), _added_ids(model))


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="vocabulary-")


def _added_ids(model: SentencePieceVocabulary) -> int:
    """How many extra ids SeqIO has to add: none where, as in mT5, the file holds them already."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.model_bytes)
    return model.size - pieces.get_piece_size()
