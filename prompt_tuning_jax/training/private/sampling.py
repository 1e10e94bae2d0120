"""Poisson sampling: every training example is in a step's batch, or not, by a coin of its own.

That is what the accountant takes for granted, and what an order that goes through the data does not
do. So batches differ in size. Their rows are padded to a number that most samples stay below; one
that does not takes as many passes through the model as it needs, and no example is left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning_jax.data.batches import Pair, TrainBatches
from prompt_tuning_jax.data.encoding import Batch
from prompt_tuning_jax.data.task import IndexedSource, Source
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.vocabularies import Vocabulary

# Of a sample's size, about its square root: one in fifteen is larger than this many above the mean.
DEVIATIONS = 1.5


def rows_at_once(config: TrainConfig, parts: int) -> int:
    """Rows of a private batch that go through the model together.

    Args:
      parts: of a batch's rows, on devices.
    """
    rows = config.batch_size + DEVIATIONS * math.sqrt(config.batch_size)
    return parts * math.ceil(rows / (parts * (config.microbatches or 1)))


def rows_of_most(config: TrainConfig, parts: int) -> int:
    """Rows of a private batch whose sample is of the usual size."""
    return rows_at_once(config, parts) * (config.microbatches or 1)


class PoissonBatches(TrainBatches):
    """Endless batches, each a Poisson sample of one source, drawn from a secret and the step.

    Args:
      batch_size: the samples' mean size.
      secret: words that nobody may know.
      rows: how many the batch of a sample of usual size has.
      at_once: what rows beyond those are a multiple of.
    """

    def __init__(
        self,
        source: Source,
        vocabulary: Vocabulary,
        *,
        batch_size: int,
        lengths: Mapping[str, int],
        secret: Sequence[int],
        rows: int,
        at_once: int,
    ):
        super().__init__(source, vocabulary, batch_size=batch_size, lengths=lengths, seed=None)
        self._secret, self._rows, self._at_once = secret, rows, at_once
        self._examples = count_examples(source, batch_size)

    def __next__(self) -> Batch:
        rng = np.random.default_rng([*self._secret, self._position])
        self._position += 1
        size = rng.binomial(self._examples, self._batch_size / self._examples)
        chosen = rng.choice(self._examples, size, replace=False)
        return self.assemble(self._reader.at(chosen.tolist()))

    def assemble(self, pairs: Sequence[Pair]) -> Batch:
        more = max(0, math.ceil((len(pairs) - self._rows) / self._at_once))
        nothing = Pair((1, 1), lambda: ([], []), None)  # a sample may be empty
        return self.padded(pairs or [nothing], self._rows + more * self._at_once)


def count_examples(source: Source, batch_size: int) -> int:
    """n of a source that can be sampled.

    Raises:
      ValueError: its examples cannot be read one by one, or are fewer than a batch's.
    """
    if not isinstance(source, IndexedSource):
        raise ValueError(
            "Private training samples its examples, and those of this task can only be read in "
            f"their order: write them to a file and set {spelled('train_file')}, or, in Python, "
            "pass a Task with an ExampleList."
        )
    if batch_size > len(source):
        raise ValueError(
            f"{spelled('batch_size')} {batch_size} is more than the {len(source)} training "
            "examples, from which private training samples: lower it."
        )
    return len(source)


def sampling_facts(config: TrainConfig, examples: int) -> dict[str, Any]:
    """How a private run samples, as a prompt's file records it."""
    return {
        "sampling": "Poisson",
        "sampling_probability": config.batch_size / examples,
        "examples": examples,
    }
