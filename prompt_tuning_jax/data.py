"""From examples to numpy batches: tokenised, bucketed by length, restartable to the exact row.

A `Source` streams examples, a `Task` names its sources and metrics, `TrainBatches` turns a source
into endless training batches with T5X's keys, and `eval_batches` into finite ones whose order the
caller can restore. Nothing here knows about prompts or JAX: a batch holds numpy arrays

    encoder_input_tokens   [B, T]   0 at padding, every row ends in EOS (id 1)
    decoder_input_tokens   [B, L]   the targets shifted right by one, starting with 0
    decoder_target_tokens  [B, L]
    decoder_loss_weights   [B, L]   1 at target tokens (EOS included), 0 at padding

where T and L are the batch's bucket: the smallest of a few lengths that holds its longest row.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Example = Mapping[str, Any]
"""`inputs` and `targets`, each text or an array of token ids; raw fields may ride along."""

Batch = dict[str, np.ndarray]
Tokens = list[int]
MetricFn = Callable[[list[str], list[str]], dict[str, float]]
"""(targets, predictions) -> scores, in percent where a score is a share."""

Exchange = Callable[[np.ndarray], np.ndarray]
"""An array of every host -> all of theirs, stacked; every host calls it."""

FEATURES = ("inputs", "targets")
INPUT_BUCKETS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
TARGET_BUCKETS = (8, 16, 32, 64, 128, 256, 512, 1024)


class Source(Protocol):
    """Where examples come from. Streaming twice with the same arguments gives the same examples."""

    def __len__(self) -> int:
        """Number of examples in an epoch."""

    def stream(self, *, seed: int | None, epoch: int, start: int = 0) -> Iterator[Example]:
        """One epoch in the order that (seed, epoch) fixes, skipping the first `start` examples.

        `seed=None` is the source's own order.
        """


class IndexedSource:
    """A source with `__getitem__`: any of its examples can be read alone."""

    def stream(self, *, seed: int | None, epoch: int, start: int = 0) -> Iterator[Example]:
        for index in epoch_order(len(self), seed, epoch)[start:].tolist():
            yield self[index]


class ExampleList(IndexedSource, list):
    """Examples held in memory: `ExampleList([{"inputs": "a film", "targets": "good"}, ...])`."""


def epoch_order(size: int, seed: int | None, epoch: int) -> np.ndarray:
    """The order of `size` examples in an epoch: a permutation for every (seed, epoch)."""
    if seed is None:
        return np.arange(size)
    return np.random.default_rng([seed, epoch]).permutation(size)


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learnt: sources by split name, the legal answers if they are few, and the metrics.

    `best_metric` names the score, among those that `metrics` return, that chooses a checkpoint.
    """

    name: str
    splits: Mapping[str, Source]
    verbalizers: tuple[str, ...] | None = None
    metrics: tuple[MetricFn, ...] = ()
    best_metric: str = "accuracy"

    def split(self, name: str) -> Source:
        """The source of a split that must exist and hold examples."""
        if name not in self.splits:
            raise ValueError(
                f"task {self.name!r} has no split {name!r}; it has {', '.join(sorted(self.splits))}"
            )
        if next(self.splits[name].stream(seed=None, epoch=0), None) is None:
            raise ValueError(f"split {name!r} of task {self.name!r} holds no examples")
        return self.splits[name]

    def score(self, targets: list[str], predictions: list[str]) -> dict[str, float]:
        """All the task's scores for `predictions`."""
        return {k: v for metric in self.metrics for k, v in metric(targets, predictions).items()}


def target_text(example: Example, vocabulary) -> str:
    """The target as text, as metrics want it.

    It is `target_text` where a source of token ids gives that, else the text of `targets`.
    """
    if "target_text" in example:
        return example["target_text"]
    targets = example["targets"]
    return targets if isinstance(targets, str) else vocabulary.decode(np.asarray(targets).tolist())


def bucket_lengths(maximum: int, lengths: Sequence[int]) -> tuple[int, ...]:
    """The lengths below `maximum`, and `maximum` itself.

    >>> bucket_lengths(100, INPUT_BUCKETS)
    (32, 48, 64, 96, 100)
    """
    if maximum < 1:
        raise ValueError(f"a sequence length must be at least 1, not {maximum}")
    return (*sorted(length for length in set(lengths) if length < maximum), maximum)


class Encoder:
    """Examples -> token ids within `lengths`, counting what it had to cut.

    Text is encoded and closed with EOS. Arrays of ids are taken as they are: a source that makes
    them has already decided about EOS. A sequence that is too long loses tokens before its EOS,
    never the EOS itself, so that the model still sees where an input ends.
    """

    def __init__(self, vocabulary, lengths: Mapping[str, int], buckets=None):
        buckets = buckets or {}
        self.vocabulary = vocabulary
        self.lengths = {"inputs": lengths["inputs"], "targets": lengths["targets"]}
        self.buckets = {
            "inputs": bucket_lengths(lengths["inputs"], buckets.get("inputs", INPUT_BUCKETS)),
            "targets": bucket_lengths(lengths["targets"], buckets.get("targets", TARGET_BUCKETS)),
        }
        self.truncated = {"inputs": 0, "targets": 0}

    def __call__(self, example: Example, feature: str) -> Tokens:
        tokens, is_cut = self.encode(example, feature)
        self.truncated[feature] += is_cut
        return tokens

    def encode(self, example: Example, feature: str) -> tuple[Tokens, bool]:
        """The ids, and whether they had to be cut, which is not counted here."""
        if feature not in example:
            raise ValueError(f"an example has no {feature!r} field; its fields are {list(example)}")
        value, eos, limit = example[feature], self.vocabulary.eos_id, self.lengths[feature]
        if isinstance(value, str):
            tokens = [*self.vocabulary.encode(value), eos]
        else:
            tokens = np.asarray(value).tolist()
        if not tokens:
            raise ValueError(f"an example's {feature!r} holds no token ids: {dict(example)}")
        if len(tokens) <= limit:
            return tokens, False
        return [*tokens[: limit - 1], eos] if tokens[-1] == eos else tokens[:limit], True

    def bucket(self, length: int, feature: str) -> int:
        """The smallest bucket that holds `length` tokens."""
        return self.buckets[feature][bisect.bisect_left(self.buckets[feature], length)]


def _pad(rows: Sequence[Tokens], batch_size: int, length: int) -> np.ndarray:
    """Rows of ids -> [batch_size, length] int32; rows beyond those given stay empty (all 0)."""
    padded = np.zeros((batch_size, length), np.int32)
    for row, tokens in zip(padded, rows, strict=False):
        row[: len(tokens)] = tokens
    return padded


def _encoder_features(inputs: Sequence[Tokens], batch_size: int, length: int) -> Batch:
    return {"encoder_input_tokens": _pad(inputs, batch_size, length)}


def _decoder_features(targets: Sequence[Tokens], batch_size: int, length: int) -> Batch:
    shifted = [[0, *tokens[:-1]] for tokens in targets]
    weights = [[1] * len(tokens) for tokens in targets]
    return {
        "decoder_input_tokens": _pad(shifted, batch_size, length),
        "decoder_target_tokens": _pad(targets, batch_size, length),
        "decoder_loss_weights": _pad(weights, batch_size, length).astype(np.float32),
    }


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


class StreamReader:
    """A source's examples, encoded as they come."""

    def __init__(self, source: Source, encoder: Encoder):
        self._source, self._encoder = source, encoder

    def pairs(self, seed: int | None, epoch: int, start: int) -> Iterator[Pair]:
        for example in self._source.stream(seed=seed, epoch=epoch, start=start):
            yield self.restore([self._encoder(example, feature) for feature in FEATURES])

    def restore(self, saved: Any) -> Pair:
        inputs, targets = saved
        return Pair((len(inputs), len(targets)), lambda: (inputs, targets), saved)


class IndexReader:
    """An indexed source's examples: once all sizes are known, each is read where it is needed."""

    def __init__(self, source: IndexedSource, encoder: Encoder):
        self._source, self._encoder, self._sizes = source, encoder, None

    def pairs(self, seed: int | None, epoch: int, start: int) -> Iterator[Pair]:
        for index in epoch_order(len(self._source), seed, epoch)[start:].tolist():
            yield self.restore(index)

    def restore(self, index: int) -> Pair:
        if self._sizes is None:
            inputs, targets = self._read(index, self._encoder)
            return Pair((len(inputs), len(targets)), lambda: (inputs, targets), index)
        inputs, targets, *cut = self._sizes[index].tolist()
        for feature, is_cut in zip(FEATURES, cut, strict=True):
            self._encoder.truncated[feature] += is_cut
        return Pair((inputs, targets), lambda: self._read(index, self._encode), index)

    def _read(self, index: int, encode: Callable[[Example, str], Any]) -> tuple[Tokens, Tokens]:
        example = self._source[index]
        return tuple(encode(example, feature) for feature in FEATURES)

    def _encode(self, example: Example, feature: str) -> Tokens:
        return self._encoder.encode(example, feature)[0]

    def share(self, exchange: Exchange, host: int, hosts: int) -> None:
        """Counts a share of all examples' tokens, and gets the others' counts."""
        counted = np.zeros((-(-len(self._source) // hosts), 2 * len(FEATURES)), np.int32)
        for row, index in enumerate(range(host, len(self._source), hosts)):
            example = self._source[index]
            found = [self._encoder.encode(example, feature) for feature in FEATURES]
            counted[row] = [len(tokens) for tokens, _ in found] + [is_cut for _, is_cut in found]
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
        vocabulary,
        *,
        batch_size: int,
        lengths: Mapping[str, int],
        seed: int | None,
        buckets: Mapping[str, Sequence[int]] | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._seed, self._batch_size = seed, batch_size
        self._encoder = Encoder(vocabulary, lengths, buckets)
        reader = IndexReader if isinstance(source, IndexedSource) else StreamReader
        self._reader, self._own_rows = reader(source, self._encoder), range
        self._epoch, self._position, self._stream = 0, 0, None
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
            pair = self._next_pair()
            bucket = self._encoder.bucket(pair.sizes[0], "inputs")
            waiting = self._pending.setdefault(bucket, [])
            waiting.append(pair)
            if len(waiting) == self._batch_size:
                return self.assemble(self._pending.pop(bucket))

    def _next_pair(self) -> Pair:
        if self._stream is None:
            self._stream = self._reader.pairs(self._seed, self._epoch, self._position)
        for pair in self._stream:
            self._position += 1
            return pair
        if not self._position:
            raise ValueError("the training split holds no examples")
        self._epoch, self._position, self._stream = self._epoch + 1, 0, None
        return self._next_pair()

    def assemble(self, pairs: Sequence[Pair]) -> Batch:
        """The batch of some examples."""
        longest = np.max([pair.sizes for pair in pairs], axis=0).tolist()
        lengths = [self._encoder.bucket(n, f) for n, f in zip(longest, FEATURES, strict=True)]
        own = set(self._own_rows(self._batch_size))
        rows = [pair.tokens() if row in own else ([], []) for row, pair in enumerate(pairs)]
        inputs, targets = zip(*rows, strict=True)
        batch = _encoder_features(inputs, self._batch_size, lengths[0])
        return batch | _decoder_features(targets, self._batch_size, lengths[1])

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
                    f"the saved data position belongs to a run with {name} {state[name]}, but this "
                    f"run has {mine[name]}: set it back, or start in a new directory"
                )
        self._epoch, self._position, self._stream = state["epoch"], state["position"], None
        self._pending = {}
        for pair in map(self._reader.restore, state["pending"]):
            bucket = self._encoder.bucket(pair.sizes[0], "inputs")
            self._pending.setdefault(bucket, []).append(pair)
        self._encoder.truncated = dict(state["truncated"])


def eval_batches(
    examples: Iterable[Example],
    vocabulary,
    *,
    batch_size: int,
    lengths: Mapping[str, int],
    buckets: Mapping[str, Sequence[int]] | None = None,
    window: int = 8192,
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Every example once, in batches of similar length.

    Yields `(indices [n], batch)`: row i of the batch is example `indices[i]`, and rows n and above
    are empty (all 0), which only the last batch of a bucket has. Examples without targets give
    batches with `encoder_input_tokens` only. Lengths are sorted within `window` examples, the most
    held in memory at a time.
    """
    encoder = Encoder(vocabulary, lengths, buckets)
    examples, first = iter(examples), 0
    while some := list(itertools.islice(examples, window)):
        for positions, batch in _sorted_batches(some, encoder, batch_size):
            yield positions + first, batch
        first += len(some)


def _sorted_batches(
    examples: Sequence[Example], encoder: Encoder, batch_size: int
) -> Iterator[tuple[np.ndarray, Batch]]:
    inputs = [encoder(example, "inputs") for example in examples]
    has_targets = all("targets" in example for example in examples)
    targets = [encoder(example, "targets") for example in examples] if has_targets else []
    by_length = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    for length, group in itertools.groupby(
        by_length, key=lambda i: encoder.bucket(len(inputs[i]), "inputs")
    ):
        group = list(group)
        for start in range(0, len(group), batch_size):
            rows = group[start : start + batch_size]
            batch = _encoder_features([inputs[i] for i in rows], batch_size, length)
            if has_targets:
                chosen = [targets[i] for i in rows]
                longest = encoder.bucket(max(map(len, chosen)), "targets")
                batch |= _decoder_features(chosen, batch_size, longest)
            yield np.array(rows), batch
