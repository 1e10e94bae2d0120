"""The engine: requests for different prompts go through one frozen model together.

Its thread does one thing after another, for as long as there is work: it reads some of the texts
that wait (those to classify are answered at once, those to generate get slots), then makes one more
token of every text that has a slot. So a text that ends frees its slot for the next step, and
nobody waits for a long answer of somebody else. What a request is answered does not depend on what
it was read or decoded with.

An accelerator is kept a step ahead: the next step is on its way before the last one's tokens are
told, and where a text turns out to have ended, nobody is told what it made of that one.
"""

import collections
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax

from prompt_tuning_jax.decoding.options import GenerationSettings
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.serving.intake import Intake, Limits
from prompt_tuning_jax.serving.library import PromptLibrary
from prompt_tuning_jax.serving.programs import Programs
from prompt_tuning_jax.serving.reading import Reader
from prompt_tuning_jax.serving.requests import (
    Event,
    Failed,
    Finished,
    NotFinite,
    Request,
    Stopping,
    TooLate,
)
from prompt_tuning_jax.serving.shapes import Shapes
from prompt_tuning_jax.serving.slots import Slots, Started
from prompt_tuning_jax.serving.waiting import Job, Waiting
from prompt_tuning_jax.tuned_prompt import TunedPrompt

LOG = logging.getLogger(__name__)


class Engine:
    """One frozen model and the requests that it answers.

        engine = Engine(model, library, shapes, max_labels=64, max_waiting=1024)
        engine.start()
        engine.submit(Generate(tokens=engine.encode(text), prompts=("topic",), ...))
        engine.stop()

    Attributes:
      model, library: the model, and the prompts by name.
      limits: what a request may ask for.
    """

    def __init__(
        self,
        model: FrozenModel,
        library: PromptLibrary,
        shapes: Shapes,
        max_labels: int,
        max_waiting: int,
        max_wait: float = math.inf,
        ahead: int | None = None,
    ):
        """Compiles nothing yet.

        Args:
          max_labels, max_waiting: limits of a request, and of how many wait.
          max_wait: how many seconds a request may be expected to wait for its turn.
          ahead: how many steps are on their way while one is told. None: 1 on an accelerator, and 0
            on a CPU, which does both.

        Raises:
          ValueError: the model has no vocabulary, or its files ask for what is not done here.
        """
        self.model, self.library = model, library
        self.programs = Programs(model, shapes, _own_settings(model))
        self.limits = Limits(
            max_input_length=shapes.lengths[-1] - shapes.prompt_length,
            max_tokens=shapes.max_tokens,
            max_labels=max_labels,
            max_label_tokens=shapes.label_lengths[-1],
            max_waiting=max_waiting,
        )
        self._intake = Intake(model, library, self.programs, self.limits)
        self._slots = Slots(self.programs)
        self._reader = Reader(self.programs, self._slots)
        self._waiting = Waiting(max_waiting, max_wait)
        self._ahead = int(jax.default_backend() != "cpu") if ahead is None else ahead
        self._started: collections.deque[Started] = collections.deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._counts: collections.Counter[str] = collections.Counter()

    # ---- for those who ask ---------------------------------------------------------------------

    def start(self, kinds: Iterable[tuple[str, str]] = ()) -> float:
        """Compiles everything that will run, then takes requests; returns the seconds it took.

        Args:
          kinds: (visibility, layout) of the prompts there will be.
        """
        begun = time.monotonic()
        self.programs.compile({way for each in kinds for way in self._ways(each)})
        self._thread.start()
        return time.monotonic() - begun

    def _ways(self, kind: tuple[str, str]) -> list[str]:
        """How a text is read with such a prompt; whoever asks for one that cannot be is told."""
        try:
            return [self._intake.read_as([kind])]
        except ValueError:
            return []

    def stop(self, timeout: float | None = None) -> bool:
        """Takes no more requests, and ends what it accepted; returns whether it did in time."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def encode(self, text: str) -> list[int]:
        """The token ids of a text.

        Raises:
          ValueError: there are more than `limits.max_input_length`.
        """
        return self._intake.encode(text)

    @property
    def is_ready(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    def submit(self, request: Request) -> None:
        """Takes a request; a prompt that is on no device yet is read from its file first.

        Raises:
          ValueError: it asks for what cannot be, or goes beyond `limits`.
          LookupError: there is no such prompt.
          Overloaded: too many are waiting, or it would wait too long.
          Stopping: the engine ends.
        """
        job = self._intake.job(request)
        with self._changed:
            if self._is_stopping:
                raise Stopping("The server is stopping.")
            self._waiting.add(job)
            self._counts["requests"] += 1
            self._changed.notify()

    def prepare(self, prompt: TunedPrompt) -> None:
        """Compiles what a prompt needs that sees otherwise than those before it."""
        self.programs.compile_read(self._intake.read_as([(prompt.visibility, prompt.layout)]))

    def statistics(self) -> Mapping[str, float]:
        """Counts since the start, and how things stand now."""
        slots = self.programs.shapes.slots[-1]
        return {
            "requests": self._counts["requests"],
            "tokens": self._counts["tokens"],
            "steps": self._counts["steps"],
            "step_slots": self._counts["step_slots"],
            "reads": self._counts["reads"],
            "read_rows": self._counts["read_rows"],
            "read_places": self._counts["read_places"],
            "failures": self._counts["failures"],
            "waiting": len(self._waiting),
            "slots": slots,
            "slots_busy": slots - self._slots.free,
            "prompts_on_device": self._reader.prompts,
            "programs": self.programs.compiled,
        }

    # ---- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while self._has_work():
            self._drop_unwanted()
            with self._changed:
                batch = self._waiting.next_batch(self.programs.shapes.texts, self._slots.free)
            if batch:
                read = functools.partial(self._read, batch)
                self._guarded(read, lambda batch=batch: [job.request for job in batch])
            self._step()

    def _has_work(self) -> bool:
        """Waits for some; False where the engine stops and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._slots.texts or self._is_stopping)
            return bool(self._waiting or self._slots.texts)

    def _drop_unwanted(self) -> None:
        """Requests that were cancelled leave, and those whose time is over are told so."""
        now = time.monotonic()

        def is_over(request: Request) -> bool:
            is_late = request.deadline is not None and now > request.deadline
            return request.is_cancelled or is_late

        with self._changed:
            over = [job.request for job in self._waiting.remove(is_over)]
        for text in [text for text in self._slots.texts if is_over(text.request)]:
            self._slots.leave(text)
            over.append(text.request)
        for request in over:
            self._tell(request, Failed(TooLate("The deadline of this request has passed.")))

    def _guarded(self, work: Callable[[], None], requests: Callable[[], Iterable[Request]]) -> None:
        """Work that fails fails its requests, those that it has not ended, and not the server."""
        try:
            work()
        except Exception as error:
            LOG.exception("A step failed.")
            self._counts["failures"] += 1
            lost = dict.fromkeys(requests())
            if not self.programs.is_whole:  # it took the state of all texts with it
                lost |= dict.fromkeys(text.request for text in self._slots.texts)
                self._started.clear()
                self.programs.reset()
                self._reader.forget()
            for text in [text for text in self._slots.texts if text.request in lost]:
                self._slots.leave(text)
            for request in lost:
                self._tell(request, Failed(error))

    def _tell(self, request: Request, event: Event) -> None:
        if request.is_cancelled:
            return
        try:
            request.tell(event)
        except Exception:  # whoever asked: others still get their answers
            LOG.exception("A request could not be told its answer.")

    # ---- its two kinds of work ----------------------------------------------------------------

    def _read(self, batch: Sequence[Job]) -> None:
        """Reads texts; ranks their labels, or gives them slots."""
        places, answers = self._reader.read(batch)
        self._counts.update(reads=1, read_rows=sum(job.rows for job in batch), read_places=places)
        for request, answer in answers:
            self._tell(request, answer)

    def _step(self) -> None:
        """One more token of every text that has a slot."""
        before = len(self._started)
        self._guarded(self._start, lambda: [text.request for text in self._slots.texts])
        is_last = len(self._started) == before
        while self._started and (
            is_last or not self._slots.texts or len(self._started) > self._ahead
        ):
            step = self._started.popleft()
            self._guarded(functools.partial(self._end, step), step.requests)

    def _start(self) -> None:
        if (step := self._slots.start()) is not None:
            self._started.append(step)
            self._counts.update(steps=1, step_slots=sum(len(text.slots) for text in step.texts))

    def _end(self, step: Started) -> None:
        """Tells the tokens of a step."""
        ends = self.programs.how.eos_ids
        for text, token in self._slots.ends(step):
            if not math.isfinite(token.log_prob):
                self._slots.leave(text)
                self._tell(text.request, Failed(NotFinite()))
                continue
            self._counts["tokens"] += 1
            self._tell(text.request, token)
            if token.id in ends or text.count == text.request.sampling.max_tokens:
                self._slots.leave(text)
                self._tell(text.request, Finished("stop" if token.id in ends else "length"))


def _own_settings(model: FrozenModel) -> GenerationSettings:
    """What the model's own files say of every text: its first and last tokens, and its rules."""
    own = model.generation.resolved({"beams": 1, "temperature": 0.0})
    return GenerationSettings(
        constraints=own["constraints"], eos_ids=own["eos_ids"], start_id=own["start_id"]
    )
