"""Texts as rows of token ids to be embedded: cut to a length, and put together by it."""

import bisect
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from prompt_tuning_jax.data.encoding import Batch, Tokens, bucket_lengths
from prompt_tuning_jax.errors import UsageError, spelled
from prompt_tuning_jax.layout import NO_TOKEN
from prompt_tuning_jax.vocabularies import Vocabulary

LENGTHS = (
    *range(8, 128, 8),
    *range(128, 256, 16),
    *range(256, 512, 32),
    *(512, 640, 768, 1024, 1536, 2048, 4096, 8192),
)
"""How long the rows of a batch are: as long as one of these that holds its longest.

Each is a program of its own to compile. Up to 512 tokens, fewer than 8 are added, or fewer than an
eighth.
"""
# Under which names sentence-transformers looks for a text prompt of either side; the first counts.
QUERY, DOCUMENT = ("query",), ("document", "passage", "corpus")


@dataclasses.dataclass(frozen=True)
class TextPrompts:
    """Texts that stand before others, by name, and the name of the one that does so unasked."""

    by_name: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default: str | None = None

    def before(self, name: str | None, text: str | None) -> str:
        """The text that stands before all others where a call names one, gives one, or neither.

        Raises:
          UsageError: there is none of this name, or both are given.
        """
        if text is not None:
            if name is not None:
                raise UsageError(f"Give either {spelled('name')} or {spelled('text_prompt')}.")
            return text
        name = self.default if name is None else name
        if name is None:
            return ""
        if name not in self.by_name:
            known = ", ".join(self.by_name) or "none"
            raise UsageError(f"The model has no text prompt {name!r}; there are: {known}.")
        return self.by_name[name]

    def of_queries(self, name: str | None) -> str | None:
        """The name of what stands before queries: the given one, else "query" if there is one."""
        return name or next((each for each in QUERY if each in self.by_name), None)

    def of_documents(self, name: str | None) -> str | None:
        """The same of documents, which may have a "document", "passage" or "corpus"."""
        return name or next((each for each in DOCUMENT if each in self.by_name), None)


class BatchSize(NamedTuple):
    """How large a batch is.

    Attributes:
      rows: the most rows.
      tokens: the most positions of a batch, though never fewer than `parts` rows; None for no such
        limit.
      parts: what the number of rows must divide by.
    """

    rows: int
    tokens: int | None = None
    parts: int = 1

    def rows_of(self, length: int) -> int:
        """How many rows of this length a full batch has."""
        rows = self.whole(self.rows)
        if self.tokens is None:
            return rows
        return min(rows, max(1, self.tokens // length // self.parts) * self.parts)

    def whole(self, rows: int) -> int:
        """So many, or a few more, that divide by `parts`."""
        return -(-rows // self.parts) * self.parts


@dataclasses.dataclass(frozen=True)
class TextRows:
    """What makes rows of texts.

    Attributes:
      lower_case: whether texts are written in small letters first.
      count_before: whether a text that stands before others counts in the pooling.
    """

    vocabulary: Vocabulary
    lower_case: bool = False
    count_before: bool = True

    def tokens(self, texts: Sequence[str], before: str, room: int, first: int = 0) -> list[Tokens]:
        """The ids of each text, special ones around them; what is more than `room` is cut off.

        Args:
          before: a text that stands before each of them.
          first: the number of the first, as errors count them.

        Raises:
          ValueError: a text has no tokens at all; it names the text.
        """
        frame = len(self.vocabulary.framed([]))
        whole = [before + text for text in texts]
        whole = [text.lower() for text in whole] if self.lower_case else whole
        rows = [
            self.vocabulary.framed(ids[: max(room - frame, 0)])
            for ids in self.vocabulary.encode_batch(whole)
        ]
        for number, row in enumerate(rows, first):
            if not row:
                raise ValueError(
                    f"texts[{number}] is {texts[number - first]!r}, which has no tokens, and this "
                    "model puts none around a text: leave it out, or write something."
                )
        return rows

    def check_room(self, room: int) -> None:
        """ValueError where so many tokens hold nothing of a text."""
        if room <= (frame := len(self.vocabulary.framed([]))):
            raise ValueError(
                f"There is room for {room} tokens of a text, of which {frame} are special: give "
                f"more ({spelled('max_length')}), or a shorter prompt."
            )

    def skipped(self, before: str) -> int:
        """How many of a row's first tokens are those of `before`, where these do not count."""
        if self.count_before or not before:
            return 0
        ids = self.vocabulary.encode(before.lower() if self.lower_case else before)
        return len(self.vocabulary.framed(ids)) - bool(self.vocabulary.suffix)

    def batch(self, rows: Sequence[Tokens], skipped: int, room: int, count: int) -> Batch:
        """`count` rows, those of texts first, as `models.embedding.embed` takes them."""
        length = length_of(max(map(len, rows), default=1), room)
        tokens_BxT = np.full((count, length), NO_TOKEN, np.int32)
        for number, row in enumerate(rows):
            tokens_BxT[number, : len(row)] = row
        return {"tokens": tokens_BxT, "skipped": np.full(count, skipped, np.int32)}

    def batches(
        self, rows: Sequence[Tokens], skipped: int, room: int, size: BatchSize
    ) -> Iterator[tuple[np.ndarray, Batch]]:
        """(numbers of rows, their batch), those of like length together; the longest come first.

        The last batch has as many rows as a power of 2 that holds its own, so that few texts are
        little work, and programs are few.
        """
        order = np.argsort([-len(row) for row in rows], kind="stable")
        first = 0
        while first < len(order):
            full = size.rows_of(length_of(len(rows[order[first]]), room))
            own = order[first : first + full]
            count = min(full, size.whole(1 << (len(own) - 1).bit_length()))
            yield own, self.batch([rows[i] for i in own], skipped, room, count)
            first += full


def length_of(tokens: int, room: int) -> int:
    """T of a batch whose longest row has so many tokens."""
    lengths = bucket_lengths(room, LENGTHS)
    return lengths[bisect.bisect_left(lengths, tokens)]
