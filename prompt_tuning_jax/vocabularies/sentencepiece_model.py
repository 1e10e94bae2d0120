"""A vocabulary that is a SentencePiece model, without TensorFlow.

T5's sentinels `<extra_id_0>`, `<extra_id_1>`, ... stand at the end of the table in reverse, so that
`<extra_id_0>` is the highest id.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from prompt_tuning_jax.vocabularies.vocabulary import SpecialIds, Vocabulary

SENTENCEPIECE = "spiece.model"
CONFIG = "tokenizer_config.json"
PAD_ID = 0
EOS_ID = 1
UNK_ID = 2


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model with T5's extra ids; gives the ids that `seqio` gives."""

    def __init__(self, model_bytes: bytes, extra_ids: int = 100, name: str = "model bytes"):
        """Builds from the bytes of a `.model` file; `name` is what errors call it.

        Raises:
          ValueError: the bytes are no SentencePiece model, or one with other special ids.
        """
        if isinstance(extra_ids, bool) or not isinstance(extra_ids, int) or extra_ids < 0:
            raise ValueError(f"extra_ids must be a whole number, 0 or more, not {extra_ids!r}.")
        base = _processor(model_bytes, name)
        _check_special_ids(base, name)
        present = sum("<extra_id_" in piece for piece in base.id_to_piece(list(range(len(base)))))
        added = b"".join(
            _user_defined_piece(_extra_piece(index))
            for index in reversed(range(extra_ids))
            if base.piece_to_id(_extra_piece(index)) == UNK_ID
        )
        super().__init__(SpecialIds(PAD_ID, EOS_ID, PAD_ID, None, UNK_ID))
        self.model_bytes = model_bytes
        self.extra_ids = max(extra_ids, present)  # mT5's published model has its own 100
        self._processor = _processor(model_bytes + added, name)

    @property
    def size(self) -> int:
        """Number of ids: pieces and extra ids. An embedding table may have more rows."""
        return self._processor.get_piece_size()

    @property
    def fingerprint(self) -> str:
        """sha256 of the model's bytes and the number of extra ids, in hex."""
        return hashlib.sha256(self.model_bytes + b"\nextra_ids=%d" % self.extra_ids).hexdigest()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts), out_type=int)

    def decode(self, ids: Iterable[int]) -> str:
        size = self.size
        kept = []
        for token in map(int, ids):
            if token == EOS_ID:
                break
            if token != PAD_ID:
                kept.append(token if 0 <= token < size else UNK_ID)
        return self._processor.decode(kept)

    def _sentinel(self, index: int) -> int:
        return self._processor.piece_to_id(_extra_piece(index))

    def id_to_piece(self, token: int) -> str:
        if not 0 <= token < self.size:
            raise ValueError(f"Id {token} is outside the vocabulary of {self.size} ids.")
        return self._processor.id_to_piece(int(token))

    def save(self, directory: str | os.PathLike[str]) -> None:
        directory = Path(directory)
        (directory / SENTENCEPIECE).write_bytes(self.model_bytes)
        config = {"tokenizer_class": "T5Tokenizer", "extra_ids": self.extra_ids}
        (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _extra_piece(index: int) -> str:
    # With the word-start mark, as T5 was trained: "and <extra_id_0>" is then one id after "and".
    return f"▁<extra_id_{index}>"


def _user_defined_piece(piece: str) -> bytes:
    """A piece in protobuf's wire format.

    A model file is one protobuf message whose field 1 repeats, once for each piece, so appending
    these bytes adds a piece: field 1 its text, field 3 its type, 4 = user-defined, never split.
    """
    text = piece.encode()
    message = b"\x0a" + bytes([len(text)]) + text + b"\x18\x04"
    return b"\x0a" + bytes([len(message)]) + message


def _processor(model: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
        return processor
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"{name} is not a SentencePiece model ({error}). The file may be cut short or of "
            "another kind: fetch spiece.model again."
        ) from error


def _check_special_ids(processor: sentencepiece.SentencePieceProcessor, name: str) -> None:
    found = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if found != (PAD_ID, EOS_ID, UNK_ID):
        raise ValueError(
            f"{name} has padding, EOS, unknown at ids {found}, T5 needs (0, 1, 2). "
            "Train it with pad_id=0, eos_id=1, unk_id=2, bos_id=-1."
        )
