"""Batches in which examples of several tasks stand together, each with the number of its task.

A batch is a `data.encoding.Batch` with `prompt_ids` [B] beside its other arrays. Which task gives
the next example follows from how many each has given, so that at any time they stand as near to
their rates as can be, and a run goes on where it stood.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning_jax.data.batches import Pair, TrainBatches
from prompt_tuning_jax.data.encoding import Batch
from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.errors import spelled


class TaskExamples(TrainBatches):
    """One task's examples on their way into such batches, each waiting in its length's queue."""

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings)
        self.taken = 0

    def take_one(self) -> int:
        self.taken += 1
        return super().take_one()

    def waiting(self, bucket: int) -> int:
        """How many examples wait in a queue."""
        return len(self._pending.get(bucket, ()))

    def give(self, bucket: int) -> list[Pair]:
        """All that wait in a queue, which is then empty."""
        return self._pending.pop(bucket, [])

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "taken": self.taken}

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state)
        self.taken = state["taken"]


class MixedBatches:
    """Endless batches of all tasks' examples of similar length, and where each task then stands.

    Args:
      tasks: of the same vocabulary and lengths.
      rates: how often each gives an example, in proportion.

    Attributes:
      examples: rows of a batch.
    """

    def __init__(self, tasks: Sequence[TaskExamples], rates: Sequence[float], examples: int):
        self._tasks, self._rates, self.examples = tasks, rates, examples

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while True:
            bucket = self._furthest_behind().take_one()
            counts = [task.waiting(bucket) for task in self._tasks]
            if sum(counts) == self.examples:
                pairs = [task.give(bucket) for task in self._tasks]
                batch = self._tasks[0].assemble(list(itertools.chain(*pairs)))
                ids = np.arange(len(counts), dtype=np.int32)
                return batch | {"prompt_ids": np.repeat(ids, counts)}

    def _furthest_behind(self) -> TaskExamples:
        due = [(task.taken + 1) / rate for task, rate in zip(self._tasks, self._rates, strict=True)]
        return self._tasks[int(np.argmin(due))]

    def get_state(self) -> list[dict[str, Any]]:
        return [task.get_state() for task in self._tasks]


def rate_of(name: str, rate: float | None, task: Task) -> float:
    """How often a run's examples come: as it says, or as many as it has.

    Raises:
      ValueError: it does not say, and its examples have no number.
    """
    if rate is not None:
        return rate
    examples = task.split("train")
    if not hasattr(examples, "__len__"):
        raise ValueError(
            f"{spelled('runs')}: {name!r} has examples without end: say how often they come beside "
            f"the others', such as {name}.task_rate=1."
        )
    return float(len(examples))
