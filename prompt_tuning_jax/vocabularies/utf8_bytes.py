"""The vocabulary of ByT5: bytes, which need no file."""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prompt_tuning_jax.vocabularies.added_tokens import AddedTokens
from prompt_tuning_jax.vocabularies.files import CONFIG, T5_TOKENS, AddedToken, VocabularyFiles
from prompt_tuning_jax.vocabularies.vocabulary import SpecialIds, Vocabulary, sentinels

BYTES = 256
OFFSET = 3  # padding, EOS and unknown come first
EXTRA_IDS = 125
BYT5 = "ByT5Tokenizer"
SPECIAL = ("pad", "eos", "unk")  # in the order of their ids


class ByteVocabulary(Vocabulary):
    """Id = byte of UTF-8 + 3; `<extra_id_i>` is 259 + i, and other added tokens follow.

    As transformers has it: a special token's text within a text is the token, and takes the white
    space around it along where its file says so.
    """

    def __init__(self, files: VocabularyFiles | None = None):
        """Builds from the tokenizer_config.json and added_tokens.json of a ByT5.

        Raises:
          ValueError: a file is corrupt, or adds a token where a byte is.
        """
        self._files = files or VocabularyFiles("bytes", {})
        names = {role: (T5_TOKENS | self._files.special_tokens)[role] for role in SPECIAL}
        special = (AddedToken(names[role], lstrip=True, rstrip=True) for role in SPECIAL)
        tokens = dict(enumerate(special)) | self._files.added_tokens
        if not self._files.added_tokens:
            extra = (AddedToken(f"<extra_id_{i}>") for i in range(self._extra_ids()))
            tokens |= dict(enumerate(extra, OFFSET + BYTES))
        ids = {token.content: i for i, token in tokens.items()}
        bytes_taken = [i for i in tokens if OFFSET <= i < OFFSET + BYTES or i < 0]
        lost = [name for name in names.values() if name not in ids]
        if bytes_taken or lost:
            wrong = tokens[bytes_taken[0]].content if bytes_taken else lost[0]
            raise ValueError(
                f"{self._files.place} gives {wrong!r} an id that ByT5 has for something else. Pass "
                "the files that came with the model."
            )
        pad, eos, unk = (ids[names[role]] for role in SPECIAL)
        super().__init__(SpecialIds(pad, eos, pad, None, unk), name=self._files.place)
        self._tokens, self._sentinels = tokens, sentinels(ids.get)
        self.extra_ids = len(self._sentinels)

    def _extra_ids(self) -> int:
        count = self._files.config.get("extra_ids", EXTRA_IDS)
        return count if isinstance(count, int) and count > 0 else EXTRA_IDS

    @property
    def size(self) -> int:
        return max(OFFSET + BYTES - 1, *self._tokens) + 1

    @property
    def fingerprint(self) -> str:
        tokens = [[i, token.content] for i, token in sorted(self._tokens.items())]
        return hashlib.sha256(json.dumps(["bytes", tokens]).encode()).hexdigest()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._splitter.encode_batch(texts, _encode_bytes)

    def framed(self, ids: Sequence[int]) -> list[int]:
        # As transformers has it: a text that ends in "</s>" is not ended twice.
        return list(ids) if ids and ids[-1] == self.eos_id else super().framed(ids)

    def id_to_piece(self, token: int) -> str:
        if token in self._tokens:
            return self._tokens[token].content
        if not 0 <= token < self.size:
            raise ValueError(f"Id {token} is outside the vocabulary of {self.size} ids.")
        byte = token - OFFSET
        return chr(byte) if 0x20 < byte < 0x7F else "▁" if byte == 0x20 else f"<0x{byte:02X}>"

    def save(self, directory: str | os.PathLike[str]) -> None:
        self._files.save(directory)
        if CONFIG not in self._files:
            config = {"tokenizer_class": BYT5, "extra_ids": self.extra_ids}
            (Path(directory) / CONFIG).write_text(json.dumps(config, indent=2) + "\n")

    def _text(self, ids: list[int]) -> str:
        return b"".join(self._bytes.get(i, b"") for i in ids).decode(errors="ignore")

    def _sentinel(self, index: int) -> int:
        return self._sentinels[index]

    @functools.cached_property
    def _bytes(self) -> dict[int, bytes]:
        """Id -> the bytes of its text; special tokens have none."""
        found = {OFFSET + byte: bytes([byte]) for byte in range(BYTES)}
        named = {self.special.pad, self.special.eos, self.special.unk}
        for i, token in self._tokens.items():
            if not token.special and i not in named:
                found[i] = token.content.encode()
        return found

    @functools.cached_property
    def _splitter(self) -> AddedTokens:
        return AddedTokens(self._tokens)


def _encode_bytes(texts: Sequence[str]) -> list[list[int]]:
    return [(np.frombuffer(text.encode(), np.uint8) + np.int64(OFFSET)).tolist() for text in texts]
