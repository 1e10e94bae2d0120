"""How long a compiled program takes, in its own order: collectives beside work, where it says so.

A compiler that lets a collective run beside other work starts it at one instruction and waits for
it at another. Here a program is walked through from instruction to instruction: work takes its time
on the device, a collective on the links, which carry one at a time.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from prompt_tuning_jax.planning.hardware import Accelerator
from prompt_tuning_jax.planning.hlo import Program, fused_into, moved
from prompt_tuning_jax.planning.instructions import Instruction

# A ring all-reduce is a reduce-scatter and an all-gather.
_TIMES_AROUND = {"all-reduce": 2}
# What a TPU's compiler puts into the fusions that start a collective, and that wait for it.
_STARTS, _WAITS = '"AsyncCollectiveStart"', '"AsyncCollectiveDone"'


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Seconds of one execution.

    Attributes:
      work: of everything but communication.
      links: of the collectives, one after another at the rate of a ring.
      elapsed: from its beginning to its end.
    """

    work: float
    links: float
    elapsed: float

    @property
    def hidden(self) -> float:
        """Of the links' seconds, those beside work, to the nanosecond."""
        return max(0.0, round(self.work + self.links - self.elapsed, 9))


def schedule(program: Program, device: Accelerator) -> Schedule:
    """Walks through a program as one device executes it."""
    walk = _Walk(program, device)
    walk.through(program.entry)
    return Schedule(walk.work, walk.links, max(walk.now, walk.links_are_free))


class _Event(NamedTuple):
    """What an instruction does: "work", "start", "wait", "both" (start and wait), or "call".

    Attributes:
      seconds: of work, or on the links.
      name: the collective's, or that of the computation that is called.
      times: how often that is called.
    """

    does: str
    seconds: float = 0.0
    name: str = ""
    times: int = 1


class _Walk:
    """One device's clock, and that of its links."""

    def __init__(self, program: Program, device: Accelerator):
        self._program, self._device = program, device
        self.now = self.work = self.links = self.links_are_free = 0.0
        self._ends: dict[str, float] = {}  # of what runs beside work
        self._found: dict[str, tuple[_Event, ...]] = {}

    def through(self, computation: str) -> None:
        for event in self._events(computation):
            if event.does == "work":
                self.now += event.seconds
                self.work += event.seconds
            if event.does in ("start", "both"):
                self.links += event.seconds
                self.links_are_free = max(self.now, self.links_are_free) + event.seconds
                self._ends[event.name] = self.links_are_free
            if event.does in ("wait", "both"):
                self.now = max(self.now, self._ends.pop(event.name, 0.0))
            for _ in range(event.times if event.does == "call" else 0):
                self.through(event.name)

    def _events(self, computation: str) -> tuple[_Event, ...]:
        if computation not in self._found:  # a loop's body comes as often as it runs
            here = self._program.computations[computation].values()
            found = tuple(e for one in here for e in self._of(computation, one))
            self._found[computation] = found
        return self._found[computation]

    def _of(self, computation: str, instruction: Instruction) -> Iterator[_Event]:
        if not self._wrapped(instruction):
            for called, times in self._program.called(instruction):
                yield _Event("call", name=called, times=times)
        if kernel := self._program.kernel(computation, instruction):
            yield _Event("work", self._device.once(kernel))
        yield from self._communication(computation, instruction)

    def _communication(self, computation: str, instruction: Instruction) -> Iterator[_Event]:
        here = self._program.computations[computation]
        if instruction.opcode.endswith("-done") and (first := here.get(instruction.operands[0])):
            if first.collective:
                yield _Event("wait", name=_name(first))
            for one in self._wrapped(first):
                yield _Event("wait", name=_name(one))
        elif wrapped := self._wrapped(instruction):
            for one in wrapped:
                yield self._moving("start", here, one)
        elif instruction.collective:
            does = "start" if instruction.opcode.endswith("-start") else "both"
            yield self._moving(does, here, instruction)
        elif inside := fused_into(instruction):
            yield from self._fused(self._program.computations[inside])

    def _wrapped(self, instruction: Instruction) -> list[Instruction]:
        """The collectives of a computation that an `async-start` runs beside other work."""
        if instruction.opcode != "async-start":
            return []
        names = [name for name, _ in self._program.called(instruction)]
        inside = (one for name in names for one in self._program.computations[name].values())
        return [one for one in inside if one.collective]

    def _fused(self, inside: dict[str, Instruction]) -> Iterator[_Event]:
        """One that goes on within a fusion of other work, as its channel tells, is work there."""
        text = " ".join(one.attributes for one in inside.values() if one.opcode == "custom-call")
        for one in inside.values():
            if not one.collective:
                continue
            if _WAITS in text:
                yield _Event("wait", name=_name(one))
            elif _STARTS in text or _name(one) not in self._started:
                yield self._moving("start" if _STARTS in text else "both", inside, one)

    @functools.cached_property
    def _started(self) -> frozenset[str]:
        """Names of all collectives that the program starts somewhere, to wait for them later."""
        found: set[str] = set()
        for here in self._program.computations.values():
            starts = any(_STARTS in one.attributes for one in here.values())
            found.update(
                _name(one)
                for one in here.values()
                if one.collective and (starts or one.opcode.endswith("-start"))
            )
        return frozenset(found)

    def _moving(self, does: str, here: dict[str, Any], instruction: Instruction) -> _Event:
        around = _TIMES_AROUND.get(instruction.collective or "", 1)
        seconds = around * moved(instruction, here) / self._device.ring
        return _Event(does, seconds, _name(instruction))


def _name(collective: Instruction) -> str:
    """The same where one starts, goes on, and ends."""
    channel = re.search(r"channel_id=\d+", collective.attributes)
    return f"{collective.collective} {channel[0] if channel else collective.name}"
