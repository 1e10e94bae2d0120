"""Many texts at once: what was encoded before is looked up, and the rest goes to all cores."""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sentencepiece

Ids = list[int]
EncodeBatch = Callable[[Sequence[str]], list[Ids]]
FEW = 64  # texts that are encoded sooner than threads are started for them
MOST_TEXT = 6_000_000  # characters and ids of texts that are remembered, some 55 MB
MOST_WORDS = 2_000_000  # characters and ids of words


class Remembered:
    """Encodes texts, and remembers the first ones, MOST_TEXT in all.

    A task's texts come again in every epoch, and those it is scored by at every evaluation. One
    text by itself is not remembered: so a server gets them, which must not grow with each.
    """

    def __init__(self, encode: EncodeBatch):
        self._encode = encode
        self._known: dict[str, tuple[int, ...]] = {}
        self._room = MOST_TEXT

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        if len(texts) == 1:
            return self._encode(texts)
        known = self._known
        new = [text for text in dict.fromkeys(texts) if text not in known]
        encoded = self._encode(new) if new else []
        fresh = dict(zip(new, map(tuple, encoded), strict=True))
        if self._room > 0:
            self._room -= _size(new, encoded)
            known |= fresh
        if len(new) == len(texts):
            return encoded
        found = known if self._room > 0 else {**fresh, **{t: known[t] for t in texts if t in known}}
        return list(map(list, map(found.__getitem__, texts)))


class ByWords:
    """Encodes texts by their words, for a tokenizer that begins anew at all white space.

    Such a tokenizer gives a text the ids of its words, one after another. Plain texts (printable
    ASCII, as most are) are cut and looked up; every other text is encoded whole.

    Args:
      encode: ids of texts, each encoded whole.
      marks: texts that the tokenizer finds before it cuts; words that hold one are not looked up.
    """

    def __init__(self, encode: EncodeBatch, marks: Iterable[str]):
        self._encode = encode
        self._has_mark: Callable[[str], Any] = re.compile(
            "|".join(map(re.escape, marks)) or r"(?!)"
        ).search
        self._forget()

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        words = [text.split() if self._is_plain(text) else None for text in texts]
        self._learn(set().union(*(row for row in words if row is not None)))
        known = list(map(self._look_up, words))
        rest = [text for text, ids in zip(texts, known, strict=True) if ids is None]
        encoded = iter(self._encode(rest) if rest else [])
        return [next(encoded) if ids is None else ids for ids in known]

    def _is_plain(self, text: str) -> bool:
        return text.isascii() and text.isprintable() and not self._has_mark(text)

    def _forget(self) -> None:
        self._ids: dict[str, Ids] = {}
        self._room = MOST_WORDS

    def _learn(self, words: set[str]) -> None:
        if self._room < 0:
            self._forget()
        new = [word for word in words if word not in self._ids]
        if new:
            encoded = self._encode(new)
            self._ids.update(zip(new, encoded, strict=True))
            self._room -= _size(new, encoded)

    def _look_up(self, words: list[str] | None) -> Ids | None:
        if words is None:
            return None
        try:
            return list(itertools.chain.from_iterable(map(self._ids.__getitem__, words)))
        except KeyError:  # another thread has made room
            return None


def _size(texts: Sequence[str], encoded: Sequence[Ids]) -> int:
    """What remembering them takes, in characters and ids, and some for each text itself."""
    return sum(map(len, texts)) + sum(map(len, encoded)) + 8 * len(texts)


def sentencepiece_encoder(model: sentencepiece.SentencePieceProcessor) -> EncodeBatch:
    """Ids of texts by a SentencePiece model, on all cores."""

    def encode(texts: Sequence[str]) -> list[Ids]:
        if len(texts) < FEW:
            return [model.encode(text, out_type=int) for text in texts]
        return model.encode(list(texts), out_type=int, num_threads=-1)

    return encode
