"""Texts that are being generated: which slots they have, and their next tokens."""

import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from prompt_tuning_jax.serving.choosing import Wishes
from prompt_tuning_jax.serving.programs import Programs
from prompt_tuning_jax.serving.requests import Generate, Token


@dataclasses.dataclass(eq=False)
class Text:
    """A text that is being generated.

    Attributes:
      request: what asked for it.
      length: S, of the longest row of prompt and text that it was read from.
      slots: where it is: one slot, or one for each member of an ensemble.
      newest: its last token, or the token that texts start with.
      count: how many tokens it has.
    """

    request: Generate
    length: int
    slots: Sequence[int]
    newest: int
    count: int = 0


class Step(NamedTuple):
    """One more token of a text."""

    text: Text
    token: Token


class Slots:
    """A fixed number of slots; the first ones are used first, so that few texts take few rows."""

    def __init__(self, programs: Programs):
        self._programs = programs
        self._sizes = programs.shapes.slots
        self._lengths = programs.shapes.lengths
        self._free = list(range(self._sizes[-1]))
        self.texts: list[Text] = []

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, request: Generate, length: int, count: int) -> Text:
        """A text in the first `count` slots that are free."""
        slots, self._free = self._free[:count], self._free[count:]
        text = Text(request, length, slots, self._programs.how.start_id)
        self.texts.append(text)
        return text

    def leave(self, text: Text) -> None:
        """Its slots are free."""
        self.texts.remove(text)
        self._free = sorted([*self._free, *text.slots])

    def step(self) -> Iterator[Step]:
        """The next token of each text."""
        rows = 1 + max(slot for text in self.texts for slot in text.slots)
        rows = self._sizes[bisect.bisect_left(self._sizes, rows)]
        longest = max(text.length for text in self.texts)
        length = self._lengths[bisect.bisect_left(self._lengths, longest)]
        found = self._programs.step(length, *self._rows(rows))
        for text in list(self.texts):
            row, told = text.slots[0], text.request.sampling.told
            text.newest, text.count = int(found.tokens[row]), text.count + 1
            top = (found.top_tokens[row, :told].tolist(), found.top_log_probs[row, :told].tolist())
            log_prob = float(found.log_probs[row])
            yield Step(text, Token(text.newest, log_prob, tuple(zip(*top, strict=True))))

    def _rows(self, count: int) -> tuple[np.ndarray, Wishes]:
        """The newest token of each slot, and how its next one is chosen."""
        tokens, whole = np.zeros(count, np.int32), np.zeros((4, count), np.int32)
        real, seed = np.zeros((2, count), np.float32), np.zeros(count, np.uint32)
        group = np.arange(count, dtype=np.int32)
        for text in self.texts:
            how, slots = text.request.sampling, list(text.slots)
            tokens[slots], group[slots] = text.newest, slots[0]
            real[:, slots] = np.array([[how.temperature], [how.top_p]])
            whole[:, slots] = np.array([[how.top_k], [how.number], [how.told], [text.count]])
            seed[slots] = how.seed
        (temperature, top_p), (top_k, number, told, index) = real, whole
        return tokens, Wishes(temperature, top_k, top_p, seed, number, told, index, group)
