"""What waits for the devices, and which of it goes together next."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from prompt_tuning_jax.serving.bank import Wanted
from prompt_tuning_jax.serving.requests import Generate, Overloaded, Request


class Kind(NamedTuple):
    """What texts that are read at once have in common.

    Attributes:
      length: S, of prompt and text.
      way: how they are read (`Intake.read_as`).
      label_length: L, where labels are scored; None where text is generated.
    """

    length: int
    way: str
    label_length: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A request with all that the devices need of it.

    Attributes:
      prompts: its members, or the one prompt; () for none.
      labels: the token ids of its labels, where it has any.
    """

    request: Request
    kind: Kind
    prompts: tuple[Wanted, ...]
    labels: Sequence[Sequence[int]] = ()

    @property
    def rows(self) -> int:
        """How many rows it takes: one for each member of an ensemble."""
        return max(1, len(self.prompts))

    @property
    def slots(self) -> int:
        """How many slots it takes while it is decoded."""
        return self.rows if isinstance(self.request, Generate) else 0


class Waiting:
    """Jobs in the order in which they came. It is not locked: its owner sees to that."""

    def __init__(self, most: int):
        self._most = most
        self._jobs: deque[Job] = deque()
        self._without_slots = 0  # of these, how many need none
        self._taken: deque[float] = deque([time.monotonic()], maxlen=256)  # when, of the last ones

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """Joins the queue.

        Raises:
          Overloaded: it is full.
        """
        if len(self._jobs) >= self._most:
            raise Overloaded(len(self._jobs), self._seconds_left())
        self._jobs.append(job)
        self._without_slots += not job.slots

    def next_batch(self, rows: int, slots: int) -> list[Job]:
        """Jobs that are read at once: the oldest that can be, and others of its kind.

        Where the oldest that needs slots finds too few, no younger one takes them: an ensemble
        would wait for ever. Those that need none pass it.

        Args:
          rows: how many rows there are at most.
          slots: how many are free.
        """
        batch: list[Job] = []
        if not slots and not self._without_slots:
            return batch
        for job in self._jobs:
            if job.slots > slots:
                slots = 0
            if batch and job.kind != batch[0].kind:
                continue
            if job.rows <= rows and job.slots <= slots:
                batch.append(job)
                rows, slots = rows - job.rows, slots - job.slots
            if not rows:
                break
        self._remove(batch)
        self._taken.extend([time.monotonic()] * len(batch))
        return batch

    def remove(self, is_unwanted: Callable[[Request], bool]) -> list[Job]:
        """Those that nobody waits for any more: they leave."""
        found = [job for job in self._jobs if is_unwanted(job.request)]
        self._remove(found)
        return found

    def _remove(self, jobs: Iterable[Job]) -> None:
        gone = set(map(id, jobs))
        if gone:
            self._jobs = deque(job for job in self._jobs if id(job) not in gone)
            self._without_slots = sum(not job.slots for job in self._jobs)

    def _seconds_left(self) -> float:
        """How long those that wait will take, as fast as the last ones went."""
        seconds = time.monotonic() - self._taken[0]
        return min(60.0, max(1.0, len(self._jobs) * seconds / len(self._taken)))
