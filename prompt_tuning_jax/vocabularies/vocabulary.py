"""What the library asks of a vocabulary, whichever files it was read from."""

import abc
import copy
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Self


class SpecialIds(NamedTuple):
    """The ids with a meaning of their own; the values here are T5's.

    Attributes:
      pad: stands where a row has no token.
      eos: ends a sequence.
      start: the decoder's first input.
      bos: begins a sequence, where the model knows such a token.
      unk: stands for what the vocabulary does not know, where there is such a token.
    """

    pad: int = 0
    eos: int = 1
    start: int = 0
    bos: int | None = None
    unk: int | None = 2


T5_IDS = SpecialIds()


class Vocabulary(abc.ABC):
    """Text to a model's token ids and back.

    vocabulary = load_vocabulary("t5-v1_1-small")
    vocabulary.encode("a sentence of words")  # [3, 9, 7142, 13, 1234], without special tokens
    vocabulary.framed([3, 9, 7142, 13, 1234])  # [3, 9, 7142, 13, 1234, 1], as the model reads it
    vocabulary.decode([3, 9, 7142, 13, 1234, 1, 0, 0])  # "a sentence of words"

    Attributes:
      special: the special ids, also as `pad_id`, `eos_id`, `start_id`, `bos_id`, `unk_id`.
      prefix, suffix: the ids that stand before and after a text's own, its frame.
      continues: whether a target goes on where its input ends, without a beginning of its own.
      extra_ids: how many sentinels there are.
      name: where it was read from, as errors call it.
      rows: how many ids the model embeds, where that is known.
    """

    extra_ids: int = 0
    continues: bool = False
    rows: int | None = None

    def __init__(
        self,
        special: SpecialIds,
        prefix: Sequence[int] = (),
        suffix: Sequence[int] | None = None,
        *,
        name: str,
    ):
        self.special, self.name = special, name
        self.prefix = tuple(prefix)
        self.suffix = (special.eos,) if suffix is None else tuple(suffix)

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """One more than the highest id. An embedding table may have more rows."""

    @property
    def pieces(self) -> int:
        """`size` without the tokens that were added later, as far as that is known."""
        return self.size

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Hex digits that tell it from other vocabularies; prompt files carry them."""

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens around them; all texts at once are faster.

        Raises:
          ValueError: a text spells a token that the model does not embed; see `within`.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids: stops at EOS, drops padding; ids past the table are as good as unknown."""
        until_eos = itertools.takewhile(lambda token: token != self.eos_id, map(int, ids))
        return self._text([token for token in until_eos if token != self.pad_id])

    @abc.abstractmethod
    def _text(self, ids: list[int]) -> str:
        """Text of ids, none of them padding or EOS."""

    @abc.abstractmethod
    def id_to_piece(self, token: int) -> str:
        """The piece with this id; `▁` marks a word's start.

        Raises:
          ValueError: there is no such id.
        """

    @abc.abstractmethod
    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes files from which `load_vocabulary` and transformers make equal ids."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens around it."""
        return self.encode_batch([text])[0]

    def framed(self, ids: Sequence[int]) -> list[int]:
        """A text's ids as the model reads them, between the special tokens that go around them."""
        return [*self.prefix, *ids, *self.suffix]

    def framed_target(self, ids: Sequence[int]) -> list[int]:
        """A target's ids as the model writes them: always with EOS at their end."""
        row = [*self.target_prefix, *self.framed(ids)[len(self.prefix) :]]
        return row if row[-1:] == [self.eos_id] else [*row, self.eos_id]

    @property
    def target_prefix(self) -> tuple[int, ...]:
        # A decoder that starts from what begins a text does not write it again.
        started = self.continues or self.prefix == (self.start_id,)
        return () if started else self.prefix

    def continuing(self) -> Self:
        """A copy for a model that writes on where a text ends: no end after the text itself."""
        changed = copy.copy(self)
        changed.suffix, changed.continues = (), True
        return changed

    def within(self, rows: int) -> Self:
        """A copy for a model that embeds so many ids: it refuses texts that hold others."""
        changed = copy.copy(self)
        changed.rows = rows
        return changed

    def sentinel(self, index: int) -> int:
        """Id of `<extra_id_{index}>`.

        Raises:
          ValueError: there are not so many extra ids.
        """
        if not 0 <= index < self.extra_ids:
            raise ValueError(f"Sentinel {index} is not one of the {self.extra_ids} extra ids.")
        return self._sentinel(index)

    @abc.abstractmethod
    def _sentinel(self, index: int) -> int:
        """Id of a sentinel that there is."""

    @property
    def pad_id(self) -> int:
        return self.special.pad

    @property
    def eos_id(self) -> int:
        return self.special.eos

    @property
    def start_id(self) -> int:
        return self.special.start

    @property
    def bos_id(self) -> int | None:
        return self.special.bos

    @property
    def unk_id(self) -> int | None:
        return self.special.unk

    def with_ids(
        self, *, pad_id: int | None = None, eos_id: int | None = None, start_id: int | None = None
    ) -> Self:
        """A copy with the special ids that a model's own files give; None leaves one as it is."""
        given = {"pad": pad_id, "eos": eos_id, "start": start_id}
        changes = {name: value for name, value in given.items() if value is not None}
        for name, value in changes.items():
            # Padding may have an id past all others, and what stands before a target be padding.
            past = value == pad_id and value >= self.size and name != "eos"
            if not past and not 0 <= value < self.size:
                raise ValueError(
                    f"The model's {name} id {value} is not among the vocabulary's {self.size} ids: "
                    "they do not belong together."
                )
        changed = copy.copy(self)
        changed.special = self.special._replace(**changes)
        ends = {self.special.eos: changed.special.eos}
        changed.suffix = tuple(ends.get(token, token) for token in self.suffix)
        return changed

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, extra_ids={self.extra_ids})"


def sentinels(find: Callable[[str], int | None]) -> list[int]:
    """The ids of `<extra_id_0>`, `<extra_id_1>`, ..., as far as there are any.

    Args:
      find: the id of a token, if there is such a token.
    """
    found: list[int] = []
    while (token := find(f"<extra_id_{len(found)}>")) is not None:
        found.append(token)
    return found
