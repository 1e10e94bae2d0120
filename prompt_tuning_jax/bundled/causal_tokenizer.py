"""The bundled vocabulary as a tokenizer.json, which transformers reads for a causal model.

transformers makes a T5Tokenizer of a spiece.model, and ends every text. A causal model goes on from
where a text ends, so its file says that nothing goes around one.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from prompt_tuning_jax.vocabularies import Vocabulary, load_vocabulary
from prompt_tuning_jax.vocabularies.files import CONFIG, TOKENIZER

_WORD = "▁"
# Numbers of fields in SentencePiece's ModelProto and NormalizerSpec.
_NORMALIZER, _CHARSMAP = 3, 2
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}  # kind of a field -> its size


def save_tokenizer(directory: Path, model_bytes: bytes) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    model = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
    special = {"pad": model.pad_id(), "eos": model.eos_id(), "unk": model.unk_id()}
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {f"{role}_token": model.id_to_piece(token) for role, token in special.items()}
    (directory / TOKENIZER).write_text(tokenizer_json(model_bytes) + "\n", encoding="utf-8")
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def continuing_vocabulary(model_bytes: bytes) -> Vocabulary:
    """The vocabulary of that tokenizer.json, which a model of it is saved with."""
    with tempfile.TemporaryDirectory() as directory:
        save_tokenizer(Path(directory), model_bytes)
        return load_vocabulary(Path(directory) / TOKENIZER).continuing()


def tokenizer_json(model_bytes: bytes) -> str:
    """The text of the tokenizer.json that gives the ids of a SentencePiece unigram model."""
    model = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(len(model))]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=model.unk_id()))
    charsmap = _field(_field(model_bytes, _NORMALIZER), _CHARSMAP)
    tokenizer.normalizer = normalizers.Precompiled(charsmap)
    words = pre_tokenizers.Metaspace(_WORD, prepend_scheme="always", split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    tokenizer.decoder = decoders.Metaspace(_WORD, prepend_scheme="always", split=True)
    special = (model.pad_id(), model.eos_id(), model.unk_id())
    tokenizer.add_special_tokens([model.id_to_piece(i) for i in special])
    return tokenizer.to_str()


def _field(message: bytes, number: int) -> bytes:
    """The bytes of a protobuf message's field; empty where it has none of this number."""
    return next((value for found, value in _fields(message) if found == number), b"")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of the fields that hold bytes, in order."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, place = _varint(message, place)
            continue
        size, place = _varint(message, place) if kind == _BYTES else (_FIXED[kind], place)
        if kind == _BYTES:
            yield number, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """(a whole number that begins at `place`, where it ends): 7 bits a byte, lowest first."""
    value = shift = 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 0x7F) << shift, shift + 7, place + 1
        if byte < 0x80:
            return value, place
