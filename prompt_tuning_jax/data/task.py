"""Tasks and their examples, wherever they come from: files, SeqIO or memory.

A `Source` streams examples in an order that a seed fixes; a `Task` names its sources, the legal
answers and the metrics. Nothing here knows about prompts or JAX.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from prompt_tuning_jax.vocabularies import Vocabulary

Example = Mapping[str, Any]
"""`inputs` and `targets`, each text or an array of token ids; raw fields may ride along."""

MetricFn = Callable[[list[str], list[str]], dict[str, float]]
"""(targets, predictions) -> scores, in percent where a score is a share."""

FEATURES = ("inputs", "targets")


class Source(Protocol):
    """Where examples come from. Streaming twice with the same arguments gives the same examples."""

    def __len__(self) -> int:
        """Number of examples in an epoch."""

    def stream(self, *, seed: int | None, epoch: int, start: int = 0) -> Iterator[Example]:
        """One epoch in the order that (seed, epoch) fixes, skipping the first `start` examples.

        `seed=None` is the source's own order.
        """


class IndexedSource(abc.ABC):
    """A source with `__getitem__`: any of its examples can be read alone."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abc.abstractmethod
    def __getitem__(self, index: Any) -> Any:
        """The example of that number."""

    def stream(self, *, seed: int | None, epoch: int, start: int = 0) -> Iterator[Example]:
        for index in epoch_order(len(self), seed, epoch)[start:].tolist():
            yield self[index]


class ExampleList(list[Example], IndexedSource):
    """Examples held in memory: `ExampleList([{"inputs": "a film", "targets": "good"}, ...])`."""

    def __repr__(self) -> str:
        return f"ExampleList({len(self)} examples)"


def epoch_order(size: int, seed: int | None, epoch: int) -> np.ndarray:
    """The order of `size` examples in an epoch: a permutation for every (seed, epoch)."""
    if seed is None:
        return np.arange(size)
    return np.random.default_rng([seed, epoch]).permutation(size)


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learnt: sources by split name, the legal answers if they are few, and the metrics.

    `best_metric` names the score, among those that `metrics` return, that chooses a checkpoint;
    `input_template` and `target_template` made the texts from records, where it is known.
    """

    name: str
    splits: Mapping[str, Source]
    verbalizers: tuple[str, ...] | None = None
    metrics: tuple[MetricFn, ...] = ()
    best_metric: str = "accuracy"
    input_template: str | None = None
    target_template: str | None = None

    def __repr__(self) -> str:
        kind = "free text" if self.verbalizers is None else f"{len(self.verbalizers)} labels"
        return f"Task({self.name!r}, {kind}, splits {', '.join(self.splits)})"

    def split(self, name: str) -> Source:
        """The source of a split that must exist and hold examples."""
        if name not in self.splits:
            raise ValueError(
                f"Task {self.name!r} has no split {name!r}; it has "
                f"{', '.join(sorted(self.splits))}."
            )
        if next(self.splits[name].stream(seed=None, epoch=0), None) is None:
            raise ValueError(f"Split {name!r} of task {self.name!r} holds no examples.")
        return self.splits[name]

    def score(self, targets: list[str], predictions: list[str]) -> dict[str, float]:
        """All the task's scores for `predictions`."""
        return {k: v for metric in self.metrics for k, v in metric(targets, predictions).items()}


def target_text(example: Example, vocabulary: Vocabulary) -> str:
    """The target as text, as metrics want it.

    It is `target_text` where a source of token ids gives that, else the text of `targets`.
    """
    if "target_text" in example:
        return example["target_text"]
    targets = example["targets"]
    return targets if isinstance(targets, str) else vocabulary.decode(np.asarray(targets).tolist())
