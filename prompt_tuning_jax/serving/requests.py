"""What is asked of the engine, and what it answers.

A request says what it wants and whom to tell: the engine calls `tell` from its own thread, once for
each event, and the last event of a request is `Finished`, `Ranked` or `Failed`.
"""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from prompt_tuning_jax.evaluation.answers import Answer


class Token(NamedTuple):
    """The next token of a text, also one that ends it, and its log-probability by the model.

    Attributes:
      top: (id, log-probability) of the likeliest tokens in its place, as many as are to be told.
    """

    id: int
    log_prob: float
    top: tuple[tuple[int, float], ...] = ()


class Finished(NamedTuple):
    """A text is complete: "stop" at a token that ends texts, "length" at `max_tokens`."""

    reason: str


class Ranked(NamedTuple):
    """The labels of a text, ranked."""

    answer: Answer


class Failed(NamedTuple):
    """There will be no answer."""

    error: Exception


Event = Token | Finished | Ranked | Failed


class Refused(Exception):
    """A request that the engine does not take, or does not finish."""


class Overloaded(Refused):
    """The queue is full, or too slow for one more.

    Attributes:
      retry_after: seconds until there will be room, as far as can be told.
    """

    def __init__(self, waiting: int, retry_after: float):
        self.retry_after = retry_after
        super().__init__(
            f"{waiting} requests are waiting already: try again in {retry_after:.0f} s."
        )


class Stopping(Refused):
    """The server ends, and takes no more requests."""


class TooLate(Refused):
    """The deadline passed before the answer was there."""


class NotFinite(Refused):
    """The model's numbers are not finite: a prompt's are too large for it, or its weights' are."""

    def __init__(self):
        super().__init__("With this prompt the model's numbers are not finite: there is no answer.")


class Sampling(NamedTuple):
    """How a text is generated.

    Attributes:
      max_tokens: the most tokens to generate, EOS included.
      temperature: above 0, sample from softmax(logits / temperature); else greedily.
      top_k: sample among the k likeliest tokens only; 0 for all.
      top_p: then among the likeliest tokens that together reach this probability.
      seed, number: on these two depends what is drawn, and on nothing else: a text that is asked
        for several times at once has a number for each.
      told: of how many of the likeliest tokens log-probabilities are told, beside the chosen one's.
    """

    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    number: int = 0
    told: int = 0


@dataclasses.dataclass(eq=False, kw_only=True)
class Request:
    """A text and the prompts that answer it.

    Attributes:
      tokens: the ids of the text, as `Encoder` makes them, without the prompt.
      prompts: names of prompts; (): the model alone; several: an ensemble of them.
      tell: called from the engine's thread with each event; it must not block.
      deadline: `time.monotonic()` after which no answer is wanted; None for no such time.
      own: how many texts whoever sent it sent before it: to wait for these is no overload.
    """

    tokens: Sequence[int]
    prompts: tuple[str, ...]
    tell: Callable[[Event], None]
    deadline: float | None = None
    own: int = 0
    _cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Nobody wants the answer any more: its place is free at the next step."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()


@dataclasses.dataclass(eq=False, kw_only=True)
class Generate(Request):
    """A text to go on from, or to answer."""

    sampling: Sampling


@dataclasses.dataclass(eq=False, kw_only=True)
class Classify(Request):
    """A text and the labels to choose from, which are distinct to the model's vocabulary."""

    labels: Sequence[str]
