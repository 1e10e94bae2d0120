"""From sources to numpy batches: bucketed by length, restartable to the exact row.

`TrainBatches` turns a source into endless training batches, and `eval_batches` examples into finite
ones whose order the caller can restore. `encoding` says what is in a batch.
"""

import itertools
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from prompt_tuning_jax.data.encoding import (
    Batch,
    Encoder,
    Tokens,
    decoder_features,
    encoder_features,
)
from prompt_tuning_jax.data.task import FEATURES, Example, IndexedSource, Source, epoch_order
from prompt_tuning_jax.vocabularies import Vocabulary

BLOCK = 1024
"""Examples that are encoded at once."""

Exchange = Callable[[np.ndarray], np.ndarray]
"""An array of every host -> all of theirs, stacked; every host calls it."""


class Pair(NamedTuple):
    """An example on its way into a batch.

    Attributes:
      sizes: how many tokens its inputs and targets have.
      tokens: gives them, (inputs, targets).
      saved: what a run's state keeps of it, as JSON values.
    """

    sizes: tuple[int, int]
    tokens: Callable[[], tuple[Tokens, Tokens]]
    saved: Any


def _pair(tokens: Sequence[Tokens], saved: Any) -> Pair:
    """An example that is encoded already."""
    inputs, targets = tokens
    return Pair((len(inputs), len(targets)), lambda: (inputs, targets), saved)


class StreamReader:
    """A source's examples, encoded a block at a time."""

    def __init__(self, source: Source, encoder: Encoder):
        self._source, self._encoder = source, encoder

    def pairs(self, seed: int | None, epoch: int, start: int) -> Iterator[Pair]:
        stream = self._source.stream(seed=seed, epoch=epoch, start=start)
        while block := list(itertools.islice(stream, BLOCK)):
            yield from map(self.restore, self._encoder.pairs(block))

    def restore(self, saved: Any) -> Pair:
        return _pair(saved, saved)


class IndexReader:
    """An indexed source's examples: once all sizes are known, each is read where it is needed."""

    def __init__(self, source: IndexedSource, encoder: Encoder):
        self._source, self._encoder = source, encoder
        self._sizes: np.ndarray | None = None

    def pairs(self, seed: int | None, epoch: int, start: int) -> Iterator[Pair]:
        order = epoch_order(len(self._source), seed, epoch)[start:].tolist()
        if self._sizes is not None:
            yield from (self._sized(index, self._sizes[index]) for index in order)
            return
        for first in range(0, len(order), BLOCK):
            block = order[first : first + BLOCK]
            pairs = self._encoder.pairs([self._source[index] for index in block])
            for index, tokens in zip(block, pairs, strict=True):
                yield _pair(tokens, index)

    def restore(self, index: int) -> Pair:
        (pair,) = self.at([index])
        return pair

    def at(self, indices: Sequence[int]) -> list[Pair]:
        """Those examples, in that order."""
        if self._sizes is not None:
            return [self._sized(index, self._sizes[index]) for index in indices]
        pairs = self._encoder.pairs([self._source[index] for index in indices])
        return [_pair(tokens, index) for index, tokens in zip(indices, pairs, strict=True)]

    def _sized(self, index: int, sizes: np.ndarray) -> Pair:
        inputs, targets, *cut = sizes.tolist()
        for feature, is_cut in zip(FEATURES, cut, strict=True):
            self._encoder.truncated[feature] += is_cut
        return Pair((inputs, targets), lambda: self._read(index), index)

    def _read(self, index: int) -> tuple[Tokens, Tokens]:
        example = [self._source[index]]
        (inputs, _), (targets, _) = (self._encoder.encode(example, f)[0] for f in FEATURES)
        return inputs, targets

    def share(self, exchange: Exchange, host: int, hosts: int) -> None:
        """Counts a share of all examples' tokens, and gets the others' counts."""
        counted = np.zeros((-(-len(self._source) // hosts), 2 * len(FEATURES)), np.int32)
        own = range(host, len(self._source), hosts)
        for first in range(0, len(own), BLOCK):
            block = [self._source[index] for index in own[first : first + BLOCK]]
            for column, feature in enumerate(FEATURES):
                found = self._encoder.encode(block, feature)
                rows = counted[first : first + len(block)]
                rows[:, column] = [len(tokens) for tokens, _ in found]
                rows[:, len(FEATURES) + column] = [is_cut for _, is_cut in found]
        by_host = exchange(counted)
        self._sizes = by_host.swapaxes(0, 1).reshape(-1, counted.shape[1])


class TrainBatches:
    """Endless training batches of one source, epoch after epoch.

    An example waits in the queue of its input bucket until `batch_size` of them are together, so
    every batch is full and padded no further than its bucket; nothing is dropped between epochs.
    `get_state()` after a batch is JSON-serialisable and exact: after `set_state`, a new object goes
    on with bit-identical batches.

    Args:
      lengths: the longest `{"inputs": T, "targets": L}`, EOS included.
      buckets: `{"inputs": (32, 64, ...), "targets": (...)}`; the maximum is always among them, so
        an empty tuple pads every batch to it.
      batch_size: rows of a batch.
    """

    def __init__(
        self,
        source: Source,
        vocabulary: Vocabulary,
        *,
        batch_size: int,
        lengths: Mapping[str, int],
        seed: int | None,
        buckets: Mapping[str, Sequence[int]] | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        self._seed, self._batch_size = seed, batch_size
        self._encoder = Encoder(vocabulary, lengths, buckets)
        self._reader: IndexReader | StreamReader
        if isinstance(source, IndexedSource):
            self._reader = IndexReader(source, self._encoder)
        else:
            self._reader = StreamReader(source, self._encoder)
        self._own_rows: Callable[[int], Collection[int]] = range
        self._epoch, self._position = 0, 0
        self._stream: Iterator[Pair] | None = None
        self._pending: dict[int, list[Pair]] = {}

    def share(
        self, exchange: Exchange, host: int, hosts: int, own_rows: Callable[[int], Collection[int]]
    ) -> None:
        """From now on, reads the examples of this host's own rows alone; the others stay empty.

        All hosts call this, and form the same batches: each first counts its share of the tokens.
        A source that is no `IndexedSource` goes on to be read by every host, for its order.

        Args:
          exchange: [...] of this host -> [hosts, ...] of all.
          own_rows: those of a batch of so many rows that this host needs.
        """
        if isinstance(self._reader, IndexReader):
            self._reader.share(exchange, host, hosts)
            self._own_rows = own_rows

    @property
    def truncated_inputs(self) -> int:
        """Examples so far whose inputs were cut to fit."""
        return self._encoder.truncated["inputs"]

    @property
    def truncated_targets(self) -> int:
        """Examples so far whose targets were cut to fit."""
        return self._encoder.truncated["targets"]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while True:
            bucket = self.take_one()
            if len(self._pending[bucket]) == self._batch_size:
                return self.assemble(self._pending.pop(bucket))

    def take_one(self) -> int:
        """Reads an example, and returns the bucket in whose queue it waits."""
        pair = self._next_pair()
        bucket = self._encoder.bucket(pair.sizes[0], "inputs")
        self._pending.setdefault(bucket, []).append(pair)
        return bucket

    def _next_pair(self) -> Pair:
        if self._stream is None:
            self._stream = self._reader.pairs(self._seed, self._epoch, self._position)
        for pair in self._stream:
            self._position += 1
            return pair
        if not self._position:
            raise ValueError("The training split holds no examples.")
        self._epoch, self._position, self._stream = self._epoch + 1, 0, None
        return self._next_pair()

    def assemble(self, pairs: Sequence[Pair]) -> Batch:
        """The batch of some examples."""
        return self.padded(pairs, self._batch_size)

    def padded(self, pairs: Sequence[Pair], count: int) -> Batch:
        """Some examples in a batch of `count` rows, of which those beyond them are padding."""
        longest = np.max([pair.sizes for pair in pairs], axis=0).tolist()
        lengths = [self._encoder.bucket(n, f) for n, f in zip(longest, FEATURES, strict=True)]
        own = set(self._own_rows(count))
        rows = [pair.tokens() if row in own else ([], []) for row, pair in enumerate(pairs)]
        inputs, targets = zip(*rows, strict=True)
        vocabulary = self._encoder.vocabulary
        batch = encoder_features(inputs, count, lengths[0], vocabulary)
        return batch | decoder_features(targets, count, lengths[1], vocabulary)

    def get_state(self) -> dict[str, Any]:
        """Where the data stands: counters, and the examples that wait for their bucket to fill."""
        return {
            "seed": self._seed,
            "batch_size": self._batch_size,
            "buckets": {name: list(lengths) for name, lengths in self._encoder.buckets.items()},
            "epoch": self._epoch,
            "position": self._position,
            "truncated": dict(self._encoder.truncated),
            "pending": [pair.saved for pairs in self._pending.values() for pair in pairs],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `get_state()` of a run with the same seed, batch size and buckets."""
        mine = self.get_state()
        for name in ("seed", "batch_size", "buckets"):
            if state[name] != mine[name]:
                raise ValueError(
                    f"The saved data position belongs to a run with {name} {state[name]}, but this "
                    f"run has {mine[name]}: set it back, or start in a new directory."
                )
        self._epoch, self._position, self._stream = state["epoch"], state["position"], None
        self._pending = {}
        for pair in map(self._reader.restore, state["pending"]):
            bucket = self._encoder.bucket(pair.sizes[0], "inputs")
            self._pending.setdefault(bucket, []).append(pair)
        self._encoder.truncated = dict(state["truncated"])


def eval_batches(
    examples: Iterable[Example],
    vocabulary: Vocabulary,
    *,
    batch_size: int,
    lengths: Mapping[str, int],
    buckets: Mapping[str, Sequence[int]] | None = None,
    window: int = 8192,
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Every example once, in batches of similar length.

    Yields `(indices [n], batch)`: row i of the batch is example `indices[i]`, and rows n and above
    are all padding, which only the last batch of a bucket has. Examples without targets give
    batches with `encoder_input_tokens` only. Lengths are sorted within `window` examples, the most
    held in memory at a time.
    """
    encoder = Encoder(vocabulary, lengths, buckets)
    examples, first = iter(examples), 0
    while some := list(itertools.islice(examples, window)):
        for positions, batch in _sorted_batches(some, encoder, batch_size):
            yield positions + first, batch
        first += len(some)
    for feature, count in encoder.truncated.items():
        if count:  # shown once, by default, however many batches there are
            warnings.warn(
                f"{feature} longer than {lengths[feature]} tokens are cut to that length",
                stacklevel=2,
            )


def _sorted_batches(
    examples: Sequence[Example], encoder: Encoder, batch_size: int
) -> Iterator[tuple[np.ndarray, Batch]]:
    inputs = encoder.batch(examples, "inputs")
    has_targets = all("targets" in example for example in examples)
    targets = encoder.batch(examples, "targets") if has_targets else []
    by_length = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    for length, alike in itertools.groupby(
        by_length, key=lambda i: encoder.bucket(len(inputs[i]), "inputs")
    ):
        group = list(alike)
        for start in range(0, len(group), batch_size):
            rows = group[start : start + batch_size]
            chosen = [inputs[i] for i in rows]
            batch = encoder_features(chosen, batch_size, length, encoder.vocabulary)
            if has_targets:
                chosen = [targets[i] for i in rows]
                longest = encoder.bucket(max(map(len, chosen)), "targets")
                batch |= decoder_features(chosen, batch_size, longest, encoder.vocabulary)
            yield np.array(rows), batch
