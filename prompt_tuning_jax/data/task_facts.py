"""The facts of a task: a few examples in full, and counts over many in bounded memory."""

import bisect
import collections
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning_jax.data.batches import BLOCK
from prompt_tuning_jax.data.encoding import (
    INPUT_BUCKETS,
    TARGET_BUCKETS,
    Encoder,
    Tokens,
    bucket_lengths,
    check_distinct,
)
from prompt_tuning_jax.data.lost_text import LostText, as_written, in_words
from prompt_tuning_jax.data.task import FEATURES, Example, Source, Task, target_text
from prompt_tuning_jax.json_values import plain
from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.vocabularies import Vocabulary

BUCKETS = {"inputs": INPUT_BUCKETS, "targets": TARGET_BUCKETS}
DIFFERENT_TARGETS = 1000  # targets told apart; free text would need memory without end
WHOLE = dict.fromkeys(FEATURES, sys.maxsize)

Facts = dict[str, Any]


class Survey:
    """Counts targets and lengths of examples.

    Attributes:
      examples: how many were counted.
      targets: how often each target occurs; `other_targets` counts those beyond the first
        DIFFERENT_TARGETS.
      lengths: feature -> how many examples have each length in tokens, EOS included, before any
        cutting.
      lost: what the vocabulary loses of the texts.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.examples, self.other_targets = 0, 0
        self.targets: collections.Counter[str] = collections.Counter()
        self.lengths: dict[str, collections.Counter[int]] = {
            feature: collections.Counter() for feature in FEATURES
        }
        self.lost = LostText(vocabulary)
        self._encode = Encoder(vocabulary, WHOLE)

    def add(self, examples: Sequence[Example]) -> None:
        """Counts a block of them, whose texts are encoded at once."""
        for feature in FEATURES:
            self.lengths[feature].update(map(len, self._encode.batch(examples, feature)))
        for example in examples:
            self._count(example)

    def _count(self, example: Example) -> None:
        self.examples += 1
        self.lost.add(example)
        target = str(target_text(example, self._encode.vocabulary))
        if target in self.targets or len(self.targets) < DIFFERENT_TARGETS:
            self.targets[target] += 1
        else:
            self.other_targets += 1


def task_facts(
    task: Task,
    split: str,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    *,
    prompt_length: int,
    layout: str = "prefix",
    examples: int = 2,
    limit: int | None = 10_000,
) -> Facts:
    """What `show_task` shows, as JSON values.

    Args:
      lengths: of `inputs` and `targets`, to which examples are cut.
      prompt_length, layout: of the prompt in the joined row.
      examples: how many records and examples to give in full.
      limit: how many examples to count; None for the whole split. Of a mixture it is a sample at
        the mixture's rates.

    Raises:
      ValueError: no such split or layout; or a mixture, which has no end, without a limit.
    """
    source = task.split(split)
    rates = dict(getattr(source, "rates", {}))
    if limit is None and len(rates) > 1:
        raise ValueError(f"{task.name!r} is a mixture, which has no end: give a limit.")
    stream = source.stream(seed=0 if len(rates) > 1 else None, epoch=0)
    shown, stream = _first(stream, min(examples, limit or examples))
    survey = Survey(vocabulary)
    counted = itertools.islice(stream, limit)
    while block := list(itertools.islice(counted, BLOCK)):
        survey.add(block)
    complete = next(stream, None) is None
    cut = Encoder(vocabulary, lengths)
    return {
        "task": task.name,
        "split": split,
        "splits": sorted(task.splits),
        "rates": rates if len(rates) > 1 else None,
        "records": _records(source, examples),
        "examples": [_example(example, cut, prompt_length, layout) for example in shown],
        "prompt": {"length": prompt_length, "layout": layout},
        "verbalizers": _verbalizers(task, vocabulary),
        "alike": _alike(task, vocabulary, lengths["targets"]),
        "lost": survey.lost.facts() | {"sentences": in_words(survey.lost)},
        "counted": survey.examples,
        "complete": complete,
        "targets": _targets(task, survey, vocabulary),
        "lengths": {f: _lengths(survey.lengths[f], BUCKETS[f], cut.lengths[f]) for f in FEATURES},
    }


def _first(stream: Iterator[Example], count: int) -> tuple[list[Example], Iterator[Example]]:
    """The first examples, and the whole stream again."""
    first = list(itertools.islice(stream, count))
    return first, itertools.chain(first, stream)


def _records(source: Source, count: int) -> list[Any]:
    """Records before any preprocessing, of sources that have them."""
    records: Iterable[Any] = source.records() if hasattr(source, "records") else ()
    return [plain(record) for record in itertools.islice(records, count)]


def _example(example: Example, cut: Encoder, prompt_length: int, layout: str) -> Facts:
    whole = Encoder(cut.vocabulary, WHOLE)
    facts = {f: _tokens(whole(example, f), cut.vocabulary) for f in FEATURES}
    facts["inputs"]["text"] = _text(example["inputs"], cut.vocabulary)
    facts["targets"]["text"] = str(target_text(example, cut.vocabulary))
    row = np.array([cut(example, "inputs")], np.int32)
    ids = cut.vocabulary.eos_id, cut.vocabulary.pad_id
    tokens, positions = place_prompt(row, prompt_length, layout, *ids)
    facts["row"] = _tokens(tokens[0].tolist(), cut.vocabulary)
    facts["row"]["prompt_positions"] = positions[0].tolist()
    return facts


def _text(value: Any, vocabulary: Vocabulary) -> str:
    return value if isinstance(value, str) else vocabulary.decode(np.asarray(value).tolist())


def _tokens(ids: Tokens, vocabulary: Vocabulary) -> Facts:
    # Padding may have an id past all pieces.
    known = vocabulary.size
    pieces = [vocabulary.id_to_piece(token) if token < known else "" for token in ids]
    return {"ids": ids, "pieces": pieces}


def _verbalizers(task: Task, vocabulary: Vocabulary) -> list[Facts] | None:
    if task.verbalizers is None:
        return None
    return [
        {"text": word} | _tokens(vocabulary.encode(word), vocabulary) for word in task.verbalizers
    ]


def _alike(task: Task, vocabulary: Vocabulary, limit: int) -> str | None:
    """Why a run would refuse the verbalizers: which are the same tokens."""
    try:
        check_distinct(task.verbalizers or (), vocabulary, limit)
    except ValueError as error:
        return str(error)
    return None


def _targets(task: Task, survey: Survey, vocabulary: Vocabulary) -> Facts:
    """Targets from the most frequent on, and how many are no verbalizer, where there are such.

    Targets that are ids are counted as what they read, which is not all of a verbalizer's text
    where special tokens are in it.
    """
    facts = {"counts": dict(survey.targets.most_common()), "others": survey.other_targets}
    if task.verbalizers is not None:
        words = (form for word in task.verbalizers for form in (word, as_written(word, vocabulary)))
        legal = sum(survey.targets[word] for word in set(words))
        facts["not_verbalizers"] = survey.examples - legal
    return facts


def _lengths(counts: Mapping[int, int], buckets: tuple[int, ...], limit: int) -> Facts:
    """Of one feature: where lengths lie, in which of training's buckets, and the share cut."""
    lengths = sorted(counts)
    upto = list(itertools.accumulate(counts[length] for length in lengths))
    total = upto[-1]

    def quantile(share: float) -> int:
        return lengths[bisect.bisect_left(upto, share * total)]

    edges = bucket_lengths(lengths[-1], buckets)
    histogram = dict.fromkeys(edges, 0)
    for length in lengths:
        histogram[edges[bisect.bisect_left(edges, length)]] += counts[length]
    return {
        "mean": sum(length * counts[length] for length in lengths) / total,
        "median": quantile(0.5),
        "percentile_95": quantile(0.95),
        "longest": lengths[-1],
        "histogram": [[edge, count] for edge, count in histogram.items()],
        "limit": limit,
        "truncated": sum(counts[length] for length in lengths if length > limit) / total,
    }
