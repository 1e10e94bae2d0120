"""A vocabulary that is a SentencePiece model, without TensorFlow.

T5's sentinels `<extra_id_0>`, `<extra_id_1>`, ... stand at the end of the table in reverse, so that
`<extra_id_0>` is the highest id.
"""

import functools
import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from prompt_tuning_jax.vocabularies.added_tokens import AddedTokens
from prompt_tuning_jax.vocabularies.files import (
    CONFIG,
    SENTENCEPIECE,
    T5_TOKENS,
    AddedToken,
    VocabularyFiles,
)
from prompt_tuning_jax.vocabularies.many_texts import Remembered, sentencepiece_encoder
from prompt_tuning_jax.vocabularies.vocabulary import SpecialIds, Vocabulary

EXTRA_IDS = 100


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model with T5's extra ids; gives the ids that `seqio` gives.

    So a special token's text within a text is text like any other, where transformers makes it the
    token. Tokens that tokenizer_config.json or added_tokens.json add are obeyed as transformers
    does, but for one thing: transformers finds those it calls "normalized" in the normalised text.
    """

    def __init__(self, model_bytes: bytes, extra_ids: int = EXTRA_IDS, name: str = "model bytes"):
        """Builds from the bytes of a `.model` file; `name` is what errors call it.

        Raises:
          ValueError: the bytes are no SentencePiece model, or one that has no end of sequence.
        """
        if isinstance(extra_ids, bool) or not isinstance(extra_ids, int) or extra_ids < 0:
            raise ValueError(f"extra_ids must be a whole number, 0 or more, not {extra_ids!r}.")
        base = _processor(model_bytes, name)
        super().__init__(_special_ids(base, name), name=name)
        present = sum("<extra_id_" in piece for piece in base.id_to_piece(list(range(len(base)))))
        added = b"".join(
            _user_defined_piece(_extra_piece(index))
            for index in reversed(range(extra_ids))
            if base.piece_to_id(_extra_piece(index)) == base.unk_id()
        )
        self.model_bytes = model_bytes
        self.extra_ids = max(extra_ids, present)  # mT5's published model has its own 100
        self._processor = _processor(model_bytes + added, name)
        self._files: VocabularyFiles | None = None
        self.added_tokens: dict[int, AddedToken] = {}

    @classmethod
    def from_files(cls, files: VocabularyFiles) -> "SentencePieceVocabulary":
        """A spiece.model, and what the files beside it add to it.

        Raises:
          ValueError: a file is corrupt, or adds tokens at ids where they cannot be.
        """
        extra_ids = files.config.get("extra_ids", EXTRA_IDS)
        vocabulary = cls(files[SENTENCEPIECE], extra_ids, files.place)
        vocabulary._files = files
        vocabulary._add(files.added_tokens)
        vocabulary.special = vocabulary._special_ids(files.special_tokens)
        vocabulary.suffix = (vocabulary.eos_id,)
        return vocabulary

    @property
    def size(self) -> int:
        return max([self._processor.get_piece_size() - 1, *self.added_tokens]) + 1

    @property
    def fingerprint(self) -> str:
        # Of the model's bytes and the number of extra ids; prompt files of long ago carry it.
        facts = self.model_bytes + b"\nextra_ids=%d" % self.extra_ids
        for token, added in self.added_tokens.items():
            facts += f"\n{token}={added.content}".encode()
        return hashlib.sha256(facts).hexdigest()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._remembered.encode_batch(texts)

    def id_to_piece(self, token: int) -> str:
        if token in self.added_tokens:
            return self.added_tokens[token].content
        if not 0 <= token < self._processor.get_piece_size():
            raise ValueError(f"Id {token} is outside the vocabulary of {self.size} ids.")
        return self._processor.id_to_piece(int(token))

    def save(self, directory: str | os.PathLike[str]) -> None:
        files = self._files or VocabularyFiles(self.name, {SENTENCEPIECE: self.model_bytes})
        files.save(directory)
        if CONFIG in files:
            return
        config = {"tokenizer_class": "T5Tokenizer", "extra_ids": self.extra_ids}
        unk = self._processor.unk_id()
        named = {"eos": self.eos_id, "unk": unk, "pad": self.pad_id}
        names = {role: self.id_to_piece(token) for role, token in named.items()}
        if names != T5_TOKENS:
            config |= {f"{role}_token": piece for role, piece in names.items()}
        (Path(directory) / CONFIG).write_text(json.dumps(config, indent=2) + "\n")

    def _text(self, ids: list[int]) -> str:
        """As transformers has it: special added tokens have no text, and the others their own."""
        added = self.added_tokens
        kept = [token for token in ids if token not in added or not added[token].special]
        text = ""
        for are_added, part in itertools.groupby(kept, added.__contains__):
            if are_added:
                text += "".join(added[token].content for token in part)
            else:
                text += self._text_of_pieces(list(part), within=text != "")
        return text

    def _text_of_pieces(self, ids: list[int], within: bool) -> str:
        size, unk = self._processor.get_piece_size(), self._processor.unk_id()
        known = [token if 0 <= token < size else unk for token in ids]
        if not within:
            return self._processor.decode(known)
        # A space is dropped where a text begins, so something stands before it.
        return self._processor.decode([unk, *known]).removeprefix(self._processor.decode([unk]))

    def _sentinel(self, index: int) -> int:
        return self._processor.piece_to_id(_extra_piece(index))

    @functools.cached_property
    def _remembered(self) -> Remembered:
        encode = sentencepiece_encoder(self._processor)
        if not self.added_tokens:
            return Remembered(encode)
        added = AddedTokens(self.added_tokens)
        return Remembered(lambda texts: added.encode_batch(texts, encode))

    def _add(self, tokens: dict[int, AddedToken]) -> None:
        """Takes tokens over that the model has not; one that is elsewhere in it is refused."""
        for number, token in tokens.items():
            found = self._piece_id(token.content)
            if found is None and number >= self._processor.get_piece_size():
                self.added_tokens[number] = token
            elif found != number:
                there = "no such piece" if found is None else f"it as {found}"
                raise ValueError(
                    f"{self.name}: the files beside the SentencePiece model give {token.content!r} "
                    f"the id {number}, but the model has {there}. Save the tokenizer with "
                    "transformers 5, which writes a tokenizer.json that has both."
                )

    def _piece_id(self, content: str) -> int | None:
        """The id of a piece; sentinels are called here as transformers calls them."""
        unk = self._processor.unk_id()
        for piece in (content, f"▁{content}"):
            found = self._processor.piece_to_id(piece)
            if found != unk or content == self._processor.id_to_piece(unk):
                return found
        return None

    def _special_ids(self, names: dict[str, str]) -> SpecialIds:
        """The model's own special ids, and those that its files give a name of another token."""
        named: dict[str, Any] = {}
        contents = {token.content: number for number, token in self.added_tokens.items()}
        for role in ("bos", "eos", "pad"):
            found = self._piece_id(names[role]) if role in names else None
            found = contents.get(names.get(role, ""), found)
            if found is not None:
                named[role] = found
        named.setdefault("start", named.get("pad", self.start_id))
        return self.special._replace(**named)


def _special_ids(model: sentencepiece.SentencePieceProcessor, name: str) -> SpecialIds:
    """Those of the model's file.

    A model without padding pads with `<s>`, which stands in no text of a T5: MADLAD's files say so.
    """
    if model.eos_id() < 0:
        raise ValueError(
            f"{name} has no token that ends a sequence. Train it with pad_id=0, "
            "eos_id=1, unk_id=2, bos_id=-1, or pass the model's own spiece.model."
        )
    bos = model.bos_id() if model.bos_id() >= 0 else None
    pad = model.pad_id() if model.pad_id() >= 0 else bos
    pad = model.eos_id() if pad is None else pad
    return SpecialIds(pad, model.eos_id(), pad, bos, model.unk_id())


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
