"""A validation split held out of the training examples, the same wherever it is asked for.

Which examples are held out depends on their texts alone, by a hash: the same on every host, in
every run and with every version of what is installed, and an example that comes twice is on one
side only.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from prompt_tuning_jax.data.task import Example, IndexedSource

_SEED = b"validation_share"


class Examples(Protocol):
    """What can be divided: examples with texts, made of the records of files."""

    @property
    def files(self) -> Sequence[Path]: ...

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...
    def record(self, index: int) -> Any: ...


class HoldOut:
    """Divides a source of examples with texts.

    Args:
      share: of the examples that are held out, above 0 and below 1.
      labels: the targets of which either side has its share; None for free text.
    """

    def __init__(self, source: Examples, share: float, labels: Sequence[str] | None):
        self._source, self._share, self._labels = source, share, labels

    @property
    def train(self) -> "Part":
        return Part(self._source, self, held_out=False)

    @property
    def validation(self) -> "Part":
        return Part(self._source, self, held_out=True)

    @functools.cached_property
    def mask(self) -> np.ndarray:
        """Whether each example is held out [n].

        Raises:
          ValueError: there are too few different inputs for two sides.
        """
        inputs, labels = self._keys()
        # Identical inputs are one, with the label of the first.
        keys, first, which = np.unique(inputs, return_index=True, return_inverse=True)
        chosen = np.zeros(len(keys), bool)
        groups = [np.flatnonzero(labels[first] == label) for label in np.unique(labels)]
        for group, count in zip(groups, self._counts(groups, len(keys)), strict=True):
            chosen[group[np.argsort(keys[group], kind="stable")[:count]]] = True
        if not chosen.any() or chosen.all():
            raise ValueError(
                f"{len(keys)} different inputs are too few to hold {self._share} of them out."
            )
        return chosen[which]

    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        """A hash of each input, and the number of its label."""
        numbers = {label: i for i, label in enumerate(self._labels or ())}
        inputs, labels = np.zeros(len(self._source), np.uint64), np.zeros(len(self._source), int)
        for i in range(len(self._source)):
            example = self._source[i]
            text = example["inputs"].encode()
            digest = hashlib.blake2b(text, digest_size=8, key=_SEED).digest()
            inputs[i] = int.from_bytes(digest, "big")
            labels[i] = numbers.get(example["targets"], -1)
        return inputs, labels

    def _counts(self, groups: Sequence[np.ndarray], total: int) -> list[int]:
        """How many of each label are held out: its share, rounded so that the sum is the share."""
        wanted = [self._share * len(group) for group in groups]
        counts = [int(want) for want in wanted]
        rest = max(1, round(self._share * total)) - sum(counts)
        by_remainder = sorted(range(len(groups)), key=lambda i: counts[i] - wanted[i])
        for i in by_remainder[:rest]:
            counts[i] += 1
        return counts


class Part(IndexedSource):
    """One side of a divided source, in the source's order."""

    def __init__(self, source: Examples, division: HoldOut, held_out: bool):
        self._source, self._division, self._held_out = source, division, held_out

    @functools.cached_property
    def _indices(self) -> np.ndarray:
        return np.flatnonzero(self._division.mask == self._held_out)

    @property
    def files(self) -> Sequence[Path]:
        """The files that the source reads."""
        return self._source.files

    def records(self) -> Iterator[Any]:
        """The records of the examples as they stand in the file."""
        return (self._source.record(int(index)) for index in self._indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[int(self._indices[index])]
