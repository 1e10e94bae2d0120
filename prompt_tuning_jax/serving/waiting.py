"""What waits for the devices, which of it goes together next, and when there is too much of it."""

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from prompt_tuning_jax.serving.bank import Wanted
from prompt_tuning_jax.serving.requests import Generate, Overloaded, Request
from prompt_tuning_jax.serving.shapes import fitting

PACE_HOLDS = 60.0  # seconds: other texts may come, and who was refused would not be a measure


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

    def has_room_for(self, other: "Kind") -> bool:
        """Whether the other is read with it at the cost of padding."""
        return other.length < self.length and other == self._replace(length=other.length)


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


class Span(NamedTuple):
    """A time in which jobs were waiting throughout.

    Attributes:
      end: when it ended, by `time.monotonic()`.
      jobs: how many left at its end.
    """

    end: float
    seconds: float
    jobs: int


class Pace:
    """How fast jobs leave, measured while others wait: what comes seldom says nothing of it."""

    def __init__(self):
        self._spans: deque[Span] = deque(maxlen=64)
        self._since: float | None = None  # the last departure, where somebody has waited from then

    def departed(self, jobs: int, are_left: bool) -> None:
        """So many have left just now.

        Args:
          are_left: whether others still wait.
        """
        now = time.monotonic()
        if jobs and self._since is not None:
            self._spans.append(Span(now, now - self._since, jobs))
        if jobs or not are_left:
            self._since = now if are_left else None

    def seconds(self, jobs: int) -> float:
        """How long so many jobs take; 0 where the last minute does not say."""
        while self._spans and self._spans[0].end < time.monotonic() - PACE_HOLDS:
            self._spans.popleft()
        left = sum(span.jobs for span in self._spans)
        return jobs * sum(span.seconds for span in self._spans) / left if left else 0.0


class Waiting:
    """Jobs in the order in which they came. It is not locked: its owner sees to that.

    Those that need slots and those that need none pass each other, so each sort has its own pace.
    """

    def __init__(self, most: int, longest: float = math.inf):
        """Args:
        most: how many jobs may wait.
        longest: how many seconds a job may be expected to wait.
        """
        self._most, self._longest = most, longest
        self._jobs: deque[Job] = deque()
        self._without_slots = 0  # of these, how many need none
        self._paces = {False: Pace(), True: Pace()}  # by whether a job needs slots

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """Joins the queue.

        Raises:
          Overloaded: it is full, or so slow that the job would wait too long, or in vain.
        """
        needs_slots, deadline = bool(job.slots), job.request.deadline
        others = max(0, self._count(needs_slots) - job.request.own)
        wait = self._paces[needs_slots].seconds(others)
        left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
        if len(self._jobs) >= self._most or wait > min(self._longest, left):
            raise Overloaded(len(self._jobs), min(60.0, max(1.0, wait)))
        self._jobs.append(job)
        self._without_slots += not job.slots

    def _count(self, needs_slots: bool) -> int:
        return len(self._jobs) - self._without_slots if needs_slots else self._without_slots

    def next_batch(self, sizes: Sequence[int], slots: int) -> list[Job]:
        """Jobs that are read at once: the oldest that can be, and others of its kind.

        Shorter ones take rows that would be padding. Where most would be even so, fewer jobs go.

        Args:
          sizes: how many rows may be read at once; the smallest that is enough will be.
          slots: how many are free.
        """
        if not slots and not self._without_slots:
            return []
        batch = self._together(sizes, slots)
        rows = sum(job.rows for job in batch)
        fewer = [size for size in sizes if size < rows]
        if fewer and batch[0].rows <= fewer[-1] and 2 * rows < fitting(sizes, rows):
            batch = self._together(fewer, slots)
        self._remove(batch)
        self._note_departure(batch)
        return batch

    def _together(self, sizes: Sequence[int], slots: int) -> list[Job]:
        """The oldest that can be, others of its kind, and shorter ones in rows that these leave."""
        first = next(self._oldest(sizes[-1], slots), None)
        if first is None:
            return []
        same = list(self._oldest(sizes[-1], slots, lambda job: job.kind == first.kind))
        rows = sum(job.rows for job in same)
        room = fitting(sizes, rows) - rows, slots - sum(job.slots for job in same)
        return same + list(self._oldest(*room, lambda job: first.kind.has_room_for(job.kind), same))

    def _oldest(
        self,
        rows: int,
        slots: int,
        is_wanted: Callable[[Job], bool] = lambda job: True,
        taken: Sequence[Job] = (),
    ) -> Iterator[Job]:
        """Those that there are rows and slots for, in the order in which they came.

        Where the oldest that needs slots finds too few, no younger one takes them: an ensemble
        would wait for ever. Those that need none pass it.
        """
        for job in self._jobs:
            if job in taken:
                continue
            if job.slots > slots:
                slots = 0
            if job.rows <= rows and job.slots <= slots and is_wanted(job):
                yield job
                rows, slots = rows - job.rows, slots - job.slots

    def remove(self, is_unwanted: Callable[[Request], bool]) -> list[Job]:
        """Those that nobody waits for any more: they leave."""
        found = [job for job in self._jobs if is_unwanted(job.request)]
        self._remove(found)
        self._note_departure([])  # nobody may be left, but it says nothing of the pace
        return found

    def _note_departure(self, jobs: Sequence[Job]) -> None:
        for needs_slots, pace in self._paces.items():
            count = sum(bool(job.slots) == needs_slots for job in jobs)
            pace.departed(count, self._count(needs_slots) > 0)

    def _remove(self, jobs: Iterable[Job]) -> None:
        gone = set(map(id, jobs))
        if gone:
            self._jobs = deque(job for job in self._jobs if id(job) not in gone)
            self._without_slots = sum(not job.slots for job in self._jobs)
