"""The bundled tasks: short documents from the generated worlds, each with a label or an answer.

An input is the bare document, so a prompt has to call up what the frozen model can do with it. The
splits of a task share neither names nor phrasings with each other or with pre-training.
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping, Sequence

from prompt_tuning_jax.bundled.subjects import SUBJECTS
from prompt_tuning_jax.bundled.worlds import Document, generator, write
from prompt_tuning_jax.data.metrics import get_metric
from prompt_tuning_jax.data.task import ExampleList, Task

SIZES = {"train": 3000, "validation": 500, "test": 1000}
SEED = 0
TOPICS = ("film", "restaurant", "hotel", "job", "park", "match")
SEASONS = ("spring", "summer", "autumn", "winter")


@dataclasses.dataclass(frozen=True)
class BundledTask:
    """How the examples of a task are made.

    Attributes:
      summary: one line.
      write: (rng, split, label number) -> the document.
      labels: the label words, or None where the answer is a name from the text.
      answer: the answer of a document without labels.
      prompts: hand-written prompts with a place for `{input}`, to compare with.
    """

    summary: str
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


def _verdict(rng, split, label) -> Document:
    return write(rng, split, favourable=bool(label), facts={"colour": False})


def _topic(rng, split, label) -> Document:
    return write(rng, split, subjects=(TOPICS[label],))


def _season(rng, split, label) -> Document:
    return write(rng, split, opinions=1, facts={"season": SEASONS[label]})


def _narrator(rng, split, label) -> Document:
    return write(rng, split, facts={"person": not label})


def _woman(rng, split, label) -> Document:
    while True:
        document = write(rng, split, facts={"person": True})
        if (document.person.he == "she") == bool(label):
            return document


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
        "is the opinion positive or negative? asked in pre-training too",
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
        "the same about other subjects, and partly in other words",
        functools.partial(
            _opinion, subjects=("gadget", "job", "course", "park", "match"), adjectives="shift"
        ),
        ("negative", "positive"),
        _OPINION_PROMPTS,
    ),
    # The same opinions under labels that say nothing of the kind: words that pre-training knows
    # as answers, but only to questions about colours, and no colour is in these texts.
    "bundled_verdict": BundledTask(
        "is the opinion positive or negative? the answers are two colours",
        _verdict,
        ("orange", "purple"),
        (
            "If this review is positive, say purple. If it is negative, say orange. {input}",
            "{input} If this review is positive, say purple. If it is negative, say orange.",
            "Is this review orange or purple? Purple is positive, orange is negative. {input}",
            "{input} Is this orange or purple?",
            "Orange or purple? {input}",
            "{input} Purple for a good review, orange for a bad review.",
            "{input} Purple means that it was good, orange means that it was bad. The answer is",
            "Question: Good is purple and bad is orange. Which is it? Text: {input}",
        ),
    ),
    # Pre-training asks which of two things a text is about, never which of many.
    "bundled_topic": BundledTask(
        "what is it about? a film, restaurant, hotel, job, park or match",
        _topic,
        TOPICS,
        (
            "Is this about a film, a restaurant, a hotel, a job, a park or a match? {input}",
            "{input} Is this about a film, a restaurant, a hotel, a job, a park or a match?",
            "A film, a restaurant, a hotel, a job, a park or a match? {input}",
            "{input} A film, a restaurant, a hotel, a job, a park or a match?",
            "What is this about? {input}",
            "{input} What is this about?",
            "{input} This text is about a",
            "Question: Is this about a film, a restaurant, a hotel, a job, a park or a match? "
            "Text: {input}",
        ),
    ),
    # Whether the one who writes is the one to whom it happened: never asked, though many questions
    # call such a person "the writer".
    "bundled_narrator": BundledTask(
        "did this happen to the writer? never asked in pre-training",
        _narrator,
        ("no", "yes"),
        (
            "Is this about the writer? {input}",
            "{input} Is this about the writer?",
            "Did this happen to the writer? {input}",
            "{input} Did this happen to the writer?",
            "Is this told in the first person? {input}",
            "{input} Was it the writer, yes or no?",
            "{input} Does the writer tell of something that the writer did?",
            "Question: Is it the writer who did this? Text: {input}",
        ),
    ),
    # Whether the person is a woman: names and pronouns say so, and no question ever asks.
    "bundled_woman": BundledTask(
        "did this happen to a woman? never asked in pre-training",
        _woman,
        ("no", "yes"),
        (
            "Is this about a woman? {input}",
            "{input} Is this about a woman?",
            "Is the person a woman, yes or no? {input}",
            "{input} Is the person a woman, yes or no?",
            "{input} Was it a woman?",
            "Did a woman tell this? {input}",
            "{input} Is the name a woman's name?",
            "Question: Is the person a woman? Text: {input}",
        ),
    ),
    # A fact that pre-training asks for, seldom named in the text itself.
    "bundled_season": BundledTask(
        "in which season was it?",
        _season,
        SEASONS,
        (
            "What season was it? {input}",
            "{input} What season was it?",
            "In which season did this happen? {input}",
            "{input} In which season did this happen?",
            "Was it spring, summer, autumn or winter? {input}",
            "{input} Was it spring, summer, autumn or winter?",
            "{input} What time of year was it?",
            "{input} The season was",
        ),
    ),
    # An answer to find in the text, where other names stand beside it.
    "bundled_place": BundledTask(
        "where was it? the answer is a name from the text",
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
        raise ValueError(f"Bundled task {name!r} has no split {split!r}; it has {tuple(SIZES)}.")
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
            f"No bundled task is called {name!r}; there are {', '.join(BUNDLED_TASKS)}."
        )
    return BUNDLED_TASKS[name]
