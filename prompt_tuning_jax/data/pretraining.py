"""Text files -> pre-training examples, for making a base model of one's own.

T5 is pre-trained by span corruption; the paper then adapts it with a prefix language-modelling
objective ("LM adaptation", section 2.2), which is what makes a frozen model follow a prompt. Both
are functions (tokens, rng, vocabulary) -> (inputs, targets) applied to chunks of a `TextDirectory`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from prompt_tuning_jax.data.task import Example, Source, epoch_order
from prompt_tuning_jax.vocabularies import Vocabulary

Ids = Int[np.ndarray, " _"]  # of any length
Objective = Callable[..., tuple[Ids, Ids]]
"""(tokens, rng, vocabulary) -> (inputs, targets)"""

HARD_WRAP = 100
"""A file whose lines are (nearly) all shorter than this is taken to be wrapped by hand."""

PAGE_WORDS = 300

SHORTEST = 8
"""The fewest tokens that a document or a chunk may have."""


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, each on one line with single spaces.

    In hard-wrapped text a paragraph ends at an empty line, or before an indented one; in any other,
    every line is a paragraph.
    """
    lines = text.splitlines()
    lengths = [len(line) for line in lines if line.strip()]
    if not lengths:
        return []
    wrapped = np.quantile(lengths, 0.99) < HARD_WRAP
    found: list[str] = []
    current: list[str] = []
    for line in lines:
        starts_new = not wrapped or not line.strip() or line[:1].isspace()
        if starts_new and current:
            found.append(" ".join(current))
            current = []
        current += line.split()
    return [*found, " ".join(current)] if current else found


def documents(text: str) -> list[str]:
    """The text's paragraphs gathered, in order, into documents of about a page.

    So dialogue keeps its context, and a document begins where a paragraph (or a passage, in a file
    of one passage a line) begins.
    """
    pages, page, words = [], [], 0
    for paragraph in paragraphs(text):
        page.append(paragraph)
        words += paragraph.count(" ") + 1
        if words >= PAGE_WORDS:
            pages.append(" ".join(page))
            page, words = [], 0
    return [*pages, " ".join(page)] if page else pages


class TextDirectory:
    """A directory of .txt files (UTF-8), tokenised once.

    `tokens` holds all documents end to end, document i being `tokens[starts[i]:starts[i + 1]]`,
    without EOS. Files are read in the order of their names, subdirectories included; documents of
    fewer than 8 tokens are left out.
    """

    def __init__(self, path: str | Path, vocabulary: Vocabulary):
        files = sorted(Path(path).rglob("*.txt"))
        if not files:
            raise FileNotFoundError(
                f"{path} holds no .txt files: give a directory of English prose."
            )
        encoded = [
            np.array(ids, np.int32)
            for file in files
            for ids in vocabulary.encode_batch(documents(read_text(file)))
        ]
        encoded = [tokens for tokens in encoded if len(tokens) >= SHORTEST]
        if not encoded:
            raise ValueError(f"The .txt files under {path} hold no text.")
        self.tokens: Ids = np.concatenate(encoded)
        self.starts = np.cumsum([0, *map(len, encoded)])


def read_text(file: Path) -> str:
    """A file's text.

    Raises:
      ValueError: it is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}): convert it first.") from error


def span_corruption(
    tokens: Ids,
    rng: np.random.Generator,
    vocabulary: Vocabulary,
    noise_density: float = 0.15,
    mean_noise_span_length: float = 3.0,
) -> tuple[Ids, Ids]:
    """T5's random-spans corruption (Raffel et al. 2020, section 3.1.4; T5's own code for details).

    `inputs` is the text with each noise span replaced by a sentinel; `targets` is each sentinel
    followed by its span. Spans never touch; the first tokens are kept and the last ones are noise,
    as in T5. Both end in EOS.
    """
    length = len(tokens)
    if length < 2:
        raise ValueError(f"Span corruption needs at least 2 tokens, got {length}.")
    noise = min(max(round(length * noise_density), 1), length - 1)
    spans = min(max(round(noise / mean_noise_span_length), 1), length - noise)
    if spans > vocabulary.extra_ids:
        raise ValueError(
            f"{length} tokens need {spans} sentinels, but the vocabulary has "
            f"{vocabulary.extra_ids}: take shorter chunks."
        )
    kept_lengths = _random_segments(length - noise, spans, rng)
    noise_lengths = _random_segments(noise, spans, rng)
    pieces = np.split(tokens, np.cumsum(np.stack([kept_lengths, noise_lengths], 1).ravel())[:-1])
    sentinels = [[vocabulary.sentinel(i)] for i in range(spans)]
    inputs = _interleave(pieces[0::2], sentinels)
    targets = _interleave(sentinels, pieces[1::2])
    eos = [vocabulary.eos_id]
    return np.array([*inputs, *eos], np.int32), np.array([*targets, *eos], np.int32)


def _random_segments(total: int, count: int, rng: np.random.Generator) -> Int[np.ndarray, " count"]:
    """`count` positive integers that add up to `total`, every way equally likely."""
    bars = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff([0, *bars, total])


def _interleave(first: Iterable[Iterable[int]], second: Iterable[Iterable[int]]) -> Iterator[int]:
    pairs = zip(first, second, strict=True)
    return itertools.chain.from_iterable(itertools.chain.from_iterable(pairs))


def prefix_lm(tokens: Ids, rng: np.random.Generator, vocabulary: Vocabulary) -> tuple[Ids, Ids]:
    """Prefix language modelling, the paper's LM adaptation: go on from a text cut at random.

    Both sides hold at least one token and end in EOS, as they do in the tasks that come later.
    """
    if len(tokens) < 2:
        raise ValueError(f"A text must have at least 2 tokens to be cut, got {len(tokens)}.")
    cut = rng.integers(1, len(tokens))
    eos = np.array([vocabulary.eos_id], np.int32)
    return np.concatenate([tokens[:cut], eos]), np.concatenate([tokens[cut:], eos])


def next_tokens(tokens: Ids, rng: np.random.Generator, vocabulary: Vocabulary) -> tuple[Ids, Ids]:
    """Language modelling for a causal model: from the first token on, all others are predicted.

    The targets end in EOS; the input does not, since they go on from it. Nothing is random.
    """
    del rng
    if len(tokens) < 2:
        raise ValueError(f"A text must have at least 2 tokens to be predicted, got {len(tokens)}.")
    eos = np.array([vocabulary.eos_id], np.int32)
    return tokens[:1], np.concatenate([tokens[1:], eos])


class TextSource:
    """Chunks of up to `length` tokens of a `TextDirectory`, each passed through an objective.

    Every epoch cuts the documents at other places and shuffles the chunks; a chunk never crosses
    the end of a document. With `seed=None` chunks come in file order, cut as in seed 0.
    """

    def __init__(
        self, directory: TextDirectory, objective: Objective, vocabulary: Vocabulary, length: int
    ):
        if length < 2 * SHORTEST:
            raise ValueError(f"Chunks must have at least {2 * SHORTEST} tokens, not {length}.")
        self._directory, self._objective = directory, objective
        self._vocabulary, self._length = vocabulary, length
        sizes = np.diff(directory.starts)
        self._chunks_per_document = -(-sizes // length)

    def __len__(self) -> int:
        return int(self._chunks_per_document.sum())

    def stream(self, *, seed: int | None, epoch: int, start: int = 0) -> Iterator[Example]:
        cuts = self._cuts(np.random.default_rng([seed or 0, epoch, 0]))
        for index in epoch_order(len(self), seed, epoch)[start:].tolist():
            rng = np.random.default_rng([seed or 0, epoch, 1, index])
            chunk = self._directory.tokens[cuts[index] : cuts[index + 1]]
            inputs, targets = self._objective(chunk, rng, self._vocabulary)
            yield {"inputs": inputs, "targets": targets}

    def _cuts(self, rng: np.random.Generator) -> Int[np.ndarray, " chunks_and_one"]:
        """Where chunks begin, and the end. A document of n tokens always gives ceil(n / length).

        Its first chunk has a random length; those after it are full, and the last has the rest.
        """
        first_chunk = np.cumsum(self._chunks_per_document) - self._chunks_per_document
        within = np.arange(len(self)) - np.repeat(first_chunk, self._chunks_per_document)
        sizes, middle = np.diff(self._directory.starts), self._chunks_per_document - 2
        rest = sizes - middle * self._length
        low = np.maximum(rest - self._length, SHORTEST)
        high = np.maximum(np.minimum(self._length, rest - SHORTEST), low)
        first = np.repeat(rng.integers(low, high, endpoint=True), self._chunks_per_document)
        offsets = np.where(within > 0, first + (within - 1) * self._length, 0)
        starts = np.repeat(self._directory.starts[:-1], self._chunks_per_document)
        return np.append(starts + offsets, len(self._directory.tokens))


_BLOCK = 1024


class MixtureSource:
    """Examples of several sources, drawn at the given rates: one endless epoch.

    `MixtureSource([(prose, 8), (skills, 48)])` takes, on average, 8 examples of prose to every 48
    of skills. Which member gives example i depends on (seed, i) alone, and each member runs through
    its own epochs at its own pace, so any position can be returned to.

    `seed=None` mixes as seed 0 does but leaves each member in its own order.
    """

    def __init__(self, members: Sequence[tuple[Source, float]]):
        if not members:
            raise ValueError("A mixture needs at least one (source, rate).")
        for source, rate in members:
            if not (np.isfinite(rate) and rate > 0):
                raise ValueError(f"A mixture's rates must be positive, not {rate}.")
            if not len(source):
                raise ValueError("A member of the mixture holds no examples.")
        self._sources = [source for source, _ in members]
        rates = np.array([rate for _, rate in members], np.float64)
        self._thresholds = np.cumsum(rates / rates.sum())[:-1]

    def __len__(self) -> int:
        """Examples in one pass over all members; the stream itself does not end."""
        return sum(map(len, self._sources))

    def stream(self, *, seed: int | None, epoch: int, start: int = 0) -> Iterator[Example]:
        block, skip = divmod(start, _BLOCK)
        taken = np.zeros(len(self._sources), np.int64)
        for earlier in range(block):
            taken += self._counts(self._choices(seed, epoch, earlier))
        taken += self._counts(self._choices(seed, epoch, block)[:skip])
        streams = [
            _endless(source, seed, int(count))
            for source, count in zip(self._sources, taken, strict=True)
        ]
        while True:
            for member in self._choices(seed, epoch, block)[skip:].tolist():
                yield next(streams[member])
            block, skip = block + 1, 0

    def _choices(self, seed: int | None, epoch: int, block: int) -> Int[np.ndarray, " block"]:
        """Which member gives each example of a block."""
        draws = np.random.default_rng([seed or 0, epoch, block]).random(_BLOCK)
        return np.searchsorted(self._thresholds, draws, side="right")

    def _counts(self, choices: Int[np.ndarray, " choices"]) -> Int[np.ndarray, " members"]:
        return np.bincount(choices, minlength=len(self._sources))


def _endless(source: Source, seed: int | None, taken: int) -> Iterator[Example]:
    """The source's epochs one after another, without its first `taken` examples."""
    epoch, start = divmod(taken, len(source))
    while True:
        yield from source.stream(seed=seed, epoch=epoch, start=start)
        epoch, start = epoch + 1, 0
