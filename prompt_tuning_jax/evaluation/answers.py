"""A model's answers to inputs: ranked labels where there are legal answers, else generated text.

Inputs need not be alike: each may have its own prompt (`bank.rows`) and its own legal answers, and
they still share batches.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.banks import BankRows, Ensemble, vote
from prompt_tuning_jax.model import DecodingOptions, FrozenModel, PromptLike

# An input's legal answers; None where its answer is free text.
Choices = Sequence[str] | None


class Answer(NamedTuple):
    """A prediction, its log-probability score, and, if it was ranked, the score of every label."""

    prediction: str
    score: float
    scores: dict[str, float] | None = None
    votes: dict[str, int] | None = None  # of an ensemble's members


def answer(
    model: FrozenModel,
    texts: Sequence[Any],
    choices: Sequence[Choices],
    prompt: PromptLike = None,
    *,
    batch_size: int = 32,
    max_input_length: int = 512,
    seed: int = 0,
    first: int = 0,
    **decoding: Unpack[DecodingOptions],
) -> list[Answer]:
    """The answers to `texts`, in order.

    Args:
      texts: n inputs, as text or token ids.
      choices: the legal answers of each input.
      prompt: as the methods of `FrozenModel` take it.
      seed: of what is sampled.
      first: the number of the first text, where these are not all; text i is number `first` + i, on
        which depends what it samples.
    """
    sizes = {"batch_size": batch_size, "max_input_length": max_input_length}
    ranked = [i for i, legal in enumerate(choices) if legal]
    free = [i for i, legal in enumerate(choices) if not legal]
    answers: dict[int, Answer] = {}
    if ranked:
        inputs, legal = [texts[i] for i in ranked], [tuple(choices[i]) for i in ranked]
        some = rank(model, inputs, legal, _subset(prompt, ranked), **sizes)
        answers |= zip(ranked, some, strict=True)
    if free:
        inputs = [texts[i] for i in free]
        options = {"seed": seed, "numbers": [first + i for i in free], **sizes, **decoding}
        generated = model.generate(inputs, _subset(prompt, free), **options)
        some = (Answer(text, float(score)) for text, score in zip(*generated, strict=True))
        answers |= zip(free, some, strict=True)
    return [answers[i] for i in range(len(texts))]


def rank(
    model: FrozenModel,
    texts: Sequence[Any],
    choices: Sequence[Sequence[str]],
    prompt: PromptLike,
    **sizes: int,
) -> list[Answer]:
    """Rank classification of each text among its own legal answers."""
    if isinstance(prompt, Ensemble):
        return rank_together(model, texts, choices, prompt, **sizes)
    labels = list(dict.fromkeys(itertools.chain.from_iterable(choices)))
    predictions, scores = model.classify(texts, choices, prompt, **sizes)
    by_label = (dict(zip(labels, row.tolist(), strict=True)) for row in scores)
    own = (
        {label: row[label] for label in legal} for legal, row in zip(choices, by_label, strict=True)
    )
    return [Answer(best, row[best], row) for best, row in zip(predictions, own, strict=True)]


def rank_together(
    model: FrozenModel,
    texts: Sequence[Any],
    choices: Sequence[Sequence[str]],
    ensemble: Ensemble,
    **sizes: int,
) -> list[Answer]:
    """The vote of an ensemble, whose members all know the same answers."""
    labels = choices[0]
    scores = model.member_scores(texts, labels, ensemble, **sizes)
    return [ensemble_answer(row, labels) for row in scores]


def ensemble_answer(scores: Float[np.ndarray, "members labels"], labels: Sequence[str]) -> Answer:
    """The label that most members choose, and the mean of their log-probabilities."""
    best = labels[int(vote(scores[None])[0])]
    means = dict(zip(labels, scores.mean(axis=0).tolist(), strict=True))
    chosen = scores.argmax(axis=-1)
    votes = {label: int(np.sum(chosen == i)) for i, label in enumerate(labels)}
    return Answer(best, means[best], means, votes)


def _subset(prompt: PromptLike, inputs: Sequence[int]) -> PromptLike:
    return prompt.take(inputs) if isinstance(prompt, BankRows) else prompt
