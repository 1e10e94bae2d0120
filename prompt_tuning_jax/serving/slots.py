"""Texts that are being generated: which slots they have, and their next tokens."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prompt_tuning_jax.serving.choosing import Wishes
from prompt_tuning_jax.serving.programs import Programs
from prompt_tuning_jax.serving.requests import Generate, Request, Token
from prompt_tuning_jax.serving.shapes import fitting
from prompt_tuning_jax.serving.steps import Next


@dataclasses.dataclass(eq=False)
class Text:
    """A text that is being generated.

    Attributes:
      request: what asked for it.
      length: S, of the longest row of prompt and text that it was read from.
      slots: where it is: one slot, or one for each member of an ensemble.
      started: how many of its tokens are made, or on their way.
      count: how many were told.
      has_left: nobody wants what is on its way.
    """

    request: Generate
    length: int
    slots: Sequence[int]
    started: int = 0
    count: int = 0
    has_left: bool = False

    @property
    def has_all(self) -> bool:
        """Whether it is as long as it may get, as soon as what is on its way is there."""
        return self.started == self.request.sampling.max_tokens


class Started(NamedTuple):
    """A step on its way, and whose tokens it makes."""

    texts: Sequence[Text]
    found: Next

    def requests(self) -> list[Request]:
        """Of texts that have not left."""
        return [text.request for text in self.texts if not text.has_left]


class Step(NamedTuple):
    """One more token of a text."""

    text: Text
    token: Token


class Slots:
    """A fixed number of slots; the first ones are used first, so that few texts take few rows."""

    def __init__(self, programs: Programs):
        self._programs = programs
        self._sizes = programs.shapes.slots
        self._lengths = programs.shapes.kept_lengths
        self._free = list(range(self._sizes[-1]))
        self.texts: list[Text] = []
        # As the devices are to have them, and as they do, for some number of rows.
        self._wishes = Wishes.of_nobody(self._sizes[-1])
        self._put: dict[int, Wishes] = {}

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, request: Generate, length: int, count: int) -> Text:
        """A text in the first `count` slots that are free."""
        slots, self._free = self._free[:count], self._free[count:]
        text = Text(request, length, slots)
        self.texts.append(text)
        how = request.sampling
        for name in ("temperature", "top_k", "top_p", "seed", "number", "told"):
            getattr(self._wishes, name)[slots] = getattr(how, name)
        self._wishes.group[slots] = slots[0]
        self._put.clear()
        return text

    def leave(self, text: Text) -> None:
        """Its slots are free, after what is on its way."""
        text.has_left = True
        self.texts.remove(text)
        self._free = sorted([*self._free, *text.slots])
        for own, of_nobody in zip(self._wishes, Wishes.of_nobody(self._sizes[-1]), strict=True):
            own[text.slots] = of_nobody[text.slots]
        self._put.clear()

    def start(self) -> Started | None:
        """Starts to make the next token of each text that may get longer; None if there is none."""
        texts = [text for text in self.texts if not text.has_all]
        if not texts:
            return None
        rows = fitting(self._sizes, 1 + max(slot for text in texts for slot in text.slots))
        length = fitting(self._lengths, max(text.length for text in texts))
        found = self._programs.step(length, self._on_devices(rows))
        for text in texts:
            text.started += 1
        return Started(texts, found)

    def ends(self, step: Started) -> Iterator[Step]:
        """The tokens of those that have not left, as soon as the step is done."""
        found = self._programs.fetched(step.found)
        tokens, log_probs = found.tokens.tolist(), found.log_probs.tolist()
        for text in step.texts:
            if text.has_left:
                continue
            text.count += 1
            row, told = text.slots[0], text.request.sampling.told
            top: tuple[tuple[int, float], ...] = ()
            if told:
                likeliest = found.top_tokens[row, :told], found.top_log_probs[row, :told]
                top = tuple(zip(*(x.tolist() for x in likeliest), strict=True))
            yield Step(text, Token(tokens[row], log_probs[row], top))

    def _on_devices(self, rows: int) -> Wishes:
        if rows not in self._put:
            some = Wishes(*(each[:rows].copy() for each in self._wishes))  # a CPU's share memory
            self._put[rows] = self._programs.put(some)
        return self._put[rows]
