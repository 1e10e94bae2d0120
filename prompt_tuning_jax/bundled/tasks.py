"""The bundled tasks: short documents from the generated worlds, each with a label or an answer.

An input is the bare document, so a prompt has to call up what the frozen model can do with it. The
splits of a task share neither names nor phrasings with each other or with pre-training.
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping, Sequence

from prompt_tuning_jax.bundled.subjects import SUBJECTS, TOPICS
from prompt_tuning_jax.bundled.worlds import Document, generator, write
from prompt_tuning_jax.data import ExampleList, Task
from prompt_tuning_jax.metrics import get_metric

SIZES = {"train": 3000, "validation": 500, "test": 1000}
SEED = 0


@dataclasses.dataclass(frozen=True)
class BundledTask:
    """How the examples of a task are made.

    Attributes:
      write: (rng, split, label number) -> the document.
      labels: the label words, or None where the answer is a name from the text.
      answer: the answer of a document without labels.
      prompts: hand-written prompts with a place for `{input}`, to compare with.
    """

    write: Callable[[random.Random, str, int], Document]
    labels: tuple[str, ...] | None
    prompts: tuple[str, ...]
    answer: Callable[[Document], str] | None = None

    def example(self, split: str, index: int, name: str) -> dict[str, str]:
        """Example number `index`; the labels take turns."""
        label = index % len(self.labels) if self.labels else 0
        document = self.write(generator(SEED, name, split, index), split, label)
        answer = self.labels[label] if self.labels else self.answer(document)
        return {"inputs": document.text, "targets": answer}


def _opinion(rng, split, label, *, subjects=tuple(SUBJECTS), adjectives="all") -> Document:
    return write(rng, split, subjects=subjects, favourable=bool(label), adjectives=adjectives)


def _topic(rng, split, label) -> Document:
    subjects = [s.name for s in SUBJECTS.values() if s.topic == TOPICS[label]]
    return write(rng, split, subjects=subjects)


def _season(rng, split, label) -> Document:
    season = ("spring", "summer", "autumn", "winter")[label]
    return write(rng, split, opinions=1, facts={"season": season})


def _place(rng, split, _) -> Document:
    return write(rng, split, opinions=1, facts={"town": True, "origin": rng.random() < 0.5})


_OPINION_PROMPTS = (
    "Is this review positive or negative? {input}",
    "{input} Is this review positive or negative?",
    "Is the opinion positive or negative? {input}",
    "{input} Positive or negative?",
    "Positive or negative? {input}",
    "Question: Is this positive or negative? Text: {input}",
    "{input} Question: Is this review positive or negative? Answer:",
    "{input} The sentiment of this text is",
)

BUNDLED_TASKS: Mapping[str, BundledTask] = {
    # The labels are those of pre-training: a good question does most of the work.
    "bundled_sentiment": BundledTask(
        functools.partial(
            _opinion,
            subjects=("film", "book", "concert", "restaurant", "hotel", "trip"),
            adjectives="usual",
        ),
        ("negative", "positive"),
        _OPINION_PROMPTS,
    ),
    # The same question in a second domain: other subjects, and partly other words.
    "bundled_sentiment_shift": BundledTask(
        functools.partial(
            _opinion, subjects=("gadget", "job", "course", "park", "match"), adjectives="shift"
        ),
        ("negative", "positive"),
        _OPINION_PROMPTS,
    ),
    # The same opinions, with label words that mean nothing of the kind.
    "bundled_verdict": BundledTask(
        _opinion,
        ("south", "north"),
        (
            "If this review is positive, say north. If it is negative, say south. {input}",
            "{input} If this review is positive, say north. If it is negative, say south.",
            "Is this review north or south? North is positive, south is negative. {input}",
            "{input} Is this north or south?",
            "North or south? {input}",
            "{input} North for a good review, south for a bad review.",
            "{input} North means that it was good, south means that it was bad. The answer is",
            "Question: Good is north and bad is south. Which is it? Text: {input}",
        ),
    ),
    # A question that pre-training never asks.
    "bundled_topic": BundledTask(
        _topic,
        TOPICS,
        (
            "Is this about art, food, travel, work, nature or sport? {input}",
            "{input} Is this about art, food, travel, work, nature or sport?",
            "What is the topic: art, food, travel, work, nature or sport? {input}",
            "{input} What is this text about?",
            "{input} Art, food, travel, work, nature or sport?",
            "{input} The topic of this text is",
            "Question: Which topic is this, art, food, travel, work, nature or sport? "
            "Text: {input}",
        ),
    ),
    # A fact that pre-training asks for, under other names: the seasons as parts of the year.
    "bundled_season": BundledTask(
        _season,
        ("first", "second", "third", "fourth"),
        (
            "In which season did this happen, the first, second, third or fourth? {input}",
            "{input} In which season did this happen, the first, second, third or fourth?",
            "Spring is first, summer is second, autumn is third, winter is fourth. {input}",
            "{input} Spring is first, summer is second, autumn is third, winter is fourth.",
            "{input} Was it the first, second, third or fourth season?",
            "What season was it, first, second, third or fourth? {input}",
            "Question: Which season was it? Spring is first, summer is second, autumn is third, "
            "winter is fourth. Text: {input}",
        ),
    ),
    # An answer to find in the text, where other names stand beside it.
    "bundled_place": BundledTask(
        _place,
        None,
        (
            "Where did this happen? {input}",
            "{input} Where did this happen?",
            "In which town was it? {input}",
            "{input} Which town was it?",
            "{input} Where was it?",
            "What is the name of the town? {input}",
            "Question: Where did it take place? Text: {input}",
            "{input} This happened in",
        ),
        answer=lambda document: document.town,
    ),
}


@functools.cache
def bundled_examples(name: str, split: str) -> ExampleList:
    """The examples of one split of a bundled task; the same every time, everywhere."""
    task = _find(name)
    if split not in SIZES:
        raise ValueError(f"bundled task {name!r} has no split {split!r}; it has {tuple(SIZES)}")
    return ExampleList(task.example(split, index, name) for index in range(SIZES[split]))


def bundled_task(name: str) -> Task:
    """A bundled task by name.

    >>> bundled_task("bundled_sentiment").verbalizers
    ('negative', 'positive')

    Raises:
      ValueError: no bundled task has this name.
    """
    labels = _find(name).labels
    return Task(
        name=name,
        splits={split: bundled_examples(name, split) for split in SIZES},
        verbalizers=labels,
        metrics=(get_metric("accuracy", labels),),
        best_metric="accuracy",
    )


def hand_written_prompts(name: str) -> Sequence[str]:
    """Prompts that a person would write for this task, each with a place for `{input}`."""
    return _find(name).prompts


def _find(name: str) -> BundledTask:
    if name not in BUNDLED_TASKS:
        raise ValueError(
            f"no bundled task is called {name!r}; there are {', '.join(BUNDLED_TASKS)}"
        )
    return BUNDLED_TASKS[name]
