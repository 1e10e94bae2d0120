"""A model's answers to inputs: ranked labels where there are legal answers, else generated text.

Inputs need not be alike: each may have its own prompt (`bank.rows`) and its own legal answers, and
they still share batches.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.banks import PromptLike, PromptSet, vote
from prompt_tuning_jax.decoding.options import DecodingOptions
from prompt_tuning_jax.decoding.text import label_choices
from prompt_tuning_jax.model import FrozenModel

# An input's legal answers; None where its answer is free text.
Choices = Sequence[str] | None


class Answer(NamedTuple):
    """A prediction, its log-probability score, and, if it was ranked, every label's.

    `votes` counts the prompts that put a label first: one prompt, or an ensemble's members.
    `legal_mass` is the probability that falls on the labels, of an ensemble the members' mean.
    """

    prediction: str
    score: float
    scores: dict[str, float] | None = None
    votes: dict[str, int] | None = None
    legal_mass: float | None = None


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
    prompts = PromptSet.of(prompt)
    sizes = {"batch_size": batch_size, "max_input_length": max_input_length}
    ranked = [i for i, legal in enumerate(choices) if legal]
    free = [i for i, legal in enumerate(choices) if not legal]
    answers: dict[int, Answer] = {}
    if ranked:
        inputs, legal = [texts[i] for i in ranked], [tuple(choices[i]) for i in ranked]
        some = rank(model, inputs, legal, prompts.take(ranked), **sizes)
        answers |= zip(ranked, some, strict=True)
    if free:
        inputs = [texts[i] for i in free]
        options = {"seed": seed, "numbers": [first + i for i in free], **sizes, **decoding}
        generated = model.generate(inputs, prompts.take(free), **options)
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
    labels, _ = label_choices(choices, len(texts))
    column = {label: i for i, label in enumerate(labels)}
    scores = model.label_scores(texts, labels, prompt, **sizes)
    return [
        ranked_answer(row[:, [column[label] for label in legal]], legal)
        for row, legal in zip(scores, choices, strict=True)
    ]


def ranked_answer(scores: Float[np.ndarray, "N C"], labels: Sequence[str]) -> Answer:
    """The label that most prompts choose, one or an ensemble's, and the mean of their scores."""
    best = labels[int(vote(scores[None])[0])]
    means = dict(zip(labels, scores.mean(axis=0).tolist(), strict=True))
    chosen = scores.argmax(axis=-1)
    votes = {label: int(np.sum(chosen == i)) for i, label in enumerate(labels)}
    legal_mass = float(np.exp(scores).sum(axis=-1).mean())
    return Answer(best, means[best], means, votes, legal_mass)
