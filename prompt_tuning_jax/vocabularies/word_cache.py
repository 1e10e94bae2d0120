"""Many texts at once: each different word is encoded once, wherever words do not touch each other.

A tokenizer that begins anew at every space gives a text the ids of its words, one after another. A
plain text (printable ASCII, as most is) is then cut and looked up, several times faster than it is
encoded. Every other text is encoded whole, on all cores.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sentencepiece

from prompt_tuning_jax.vocabularies.near_ties import LONGEST_TEXT, LONGEST_WORD, clear_words

Ids = list[int]
EncodeBatch = Callable[[Sequence[str]], list[Ids]]
ClearAmong = Callable[[list[str]], list[str]]
FEW = 64  # texts that are not worth a look at the words
MOST_WORDS = 200_000  # kept at a time, some 40 MB
# In a model's file, the name of rules that treat each ASCII character by itself.
_PLAIN_RULES = re.compile(
    rb"\x1a[\x80-\xff]*[\x00-\x7f]\x0a.(identity|(nmt_)?nfkc(_cf)?)[\x12\x18]"
)
_WORD = "▁"


class WordCache:
    """Encodes texts, and remembers the ids of their words.

    Args:
      encode: ids of texts, each encoded whole.
      clear: which of some new words have the same ids wherever they stand; None where no word has,
        so that every text is encoded whole.
    """

    def __init__(self, encode: EncodeBatch, clear: ClearAmong | None):
        self._encode, self._clear = encode, clear
        self._ids: dict[str, Ids] = {}
        self._unclear: set[str] = set()

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        if self._clear is None or len(texts) < FEW:
            return self._encode(texts)
        words = [text.split() if _is_plain(text) else None for text in texts]
        self._learn(set().union(*(row for row in words if row is not None)), self._clear)
        known = list(map(self._look_up, words))
        rest = [text for text, ids in zip(texts, known, strict=True) if ids is None]
        encoded = iter(self._encode(rest))
        return [next(encoded) if ids is None else ids for ids in known]

    def _learn(self, words: set[str], clear_among: ClearAmong) -> None:
        if len(self._ids) + len(self._unclear) > MOST_WORDS:
            self._ids, self._unclear = {}, set()
        new = list(words - self._ids.keys() - self._unclear)
        clear = clear_among(new)
        self._unclear.update(set(new).difference(clear))
        self._ids.update(zip(clear, self._encode(clear), strict=True))

    def _look_up(self, words: list[str] | None) -> Ids | None:
        if words is None:
            return None
        try:
            return list(itertools.chain.from_iterable(map(self._ids.__getitem__, words)))
        except KeyError:
            return None


def _is_plain(text: str) -> bool:
    return text.isascii() and len(text) <= LONGEST_TEXT and text.isprintable()


def sentencepiece_cache(
    model: sentencepiece.SentencePieceProcessor, model_bytes: bytes
) -> WordCache:
    """The cache of a SentencePiece model; without words where its own words do touch."""

    def encode(texts: Sequence[str]) -> list[Ids]:
        threads = 1 if len(texts) < FEW else -1
        return model.encode(list(texts), out_type=int, num_threads=threads)

    pieces = model.id_to_piece(list(range(model.get_piece_size())))
    apart = model.encode(" a  a ", out_type=int) == 2 * model.encode("a", out_type=int)
    crossing = any(_WORD in piece[1:] for piece in pieces) or _WORD not in pieces
    if not apart or crossing or not _PLAIN_RULES.search(model_bytes):
        return WordCache(encode, None)
    scores = dict(zip(pieces, model.get_score(list(range(len(pieces)))), strict=True))
    is_marked = containing(piece.lstrip(_WORD) for piece, score in scores.items() if score == 0)

    def clear(words: list[str]) -> list[str]:
        return clear_words(
            [w for w in words if len(w) <= LONGEST_WORD and not is_marked(w)], scores
        )

    return WordCache(encode, clear)


def containing(marks: Iterable[str]) -> Callable[[str], Any]:
    """Whether a word contains one of some marks."""
    return re.compile("|".join(map(re.escape, filter(None, marks))) or r"(?!)").search
