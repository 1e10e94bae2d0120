"""Scores of predicted texts against target texts, in percent, as T5 computes them.

`get_metric("f1", labels=("no", "yes"))` gives a function (targets, predictions) -> {"f1": 66.7}; a
metric's name is the key of its score. A prediction that is no legal label counts as wrong.
"""

import collections
import decimal
import difflib
import functools
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning_jax.data.task import MetricFn

Answers = str | Sequence[str]
"""One right answer, or several of which the best match counts."""
# What stands before the answer of a worked solution, by MetaMathQA and GSM8K; the first that a text
# holds counts.
_BEFORE_ANSWERS = (
    *("The answer is: ", "The answer is ", "The final answer is: ", "The final answer is "),
    "#### ",
)


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> float:
    """Share of predictions that equal their target."""
    return _percent(t == p for t, p in zip(targets, predictions, strict=True))


def f1(
    targets: Sequence[str], predictions: Sequence[str], labels: Sequence[str], positive: str
) -> float:
    """F1 of the `positive` label.

    As in T5, an illegal prediction counts as the label that is wrong: it is a false positive where
    the target is negative, a false negative where it is positive.
    """
    legal = [
        p if p in labels else (None if t == positive else positive)
        for t, p in zip(targets, predictions, strict=True)
    ]
    return 100 * _f1_of_label(targets, legal, positive)


def macro_f1(targets: Sequence[str], predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Mean over the labels of each label's F1 (T5's `mean_multiclass_f1`, used for CB)."""
    return 100 * float(np.mean([_f1_of_label(targets, predictions, label) for label in labels]))


def _f1_of_label(targets: Sequence[str], predictions: Sequence[str | None], label: str) -> float:
    hits = sum(t == p == label for t, p in zip(targets, predictions, strict=True))
    total = sum(t == label for t in targets) + sum(p == label for p in predictions)
    return 2 * hits / total if total else 0.0


def matthews(targets: Sequence[str], predictions: Sequence[str]) -> float:
    """Matthews correlation, -100 to 100 (CoLA); 0 where all are of one class."""
    if len({*targets, *predictions}) < 2:
        return 0.0  # as scikit-learn, which warns of it in words about its own arguments
    from sklearn.metrics import matthews_corrcoef  # slow to import, and rarely needed

    return 100 * float(matthews_corrcoef(targets, predictions))


def exact_match(targets: Sequence[Answers], predictions: Sequence[str]) -> float:
    """Share of predictions equal to an answer after SQuAD's normalisation."""
    return _percent(
        _best(_equal_normalized, answers, prediction)
        for answers, prediction in zip(targets, predictions, strict=True)
    )


def token_f1(targets: Sequence[Answers], predictions: Sequence[str]) -> float:
    """Mean overlap of the words of prediction and answer after SQuAD's normalisation."""
    return _percent(
        _best(_word_overlap, answers, prediction)
        for answers, prediction in zip(targets, predictions, strict=True)
    )


def _best(score: Callable[[str, str], float], answers: Answers, prediction: str) -> float:
    answers = [answers] if isinstance(answers, str) else answers
    return max(score(answer, prediction) for answer in answers)


def normalize_answer(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _equal_normalized(answer: str, prediction: str) -> float:
    return float(normalize_answer(answer) == normalize_answer(prediction))


def _word_overlap(answer: str, prediction: str) -> float:
    expected, found = normalize_answer(answer).split(), normalize_answer(prediction).split()
    common = sum((collections.Counter(expected) & collections.Counter(found)).values())
    return 2 * common / (len(expected) + len(found)) if common else 0.0


def final_answer(targets: Sequence[str], predictions: Sequence[str]) -> float:
    """Share of worked solutions that end in their target's answer, as PEFT compares methods.

    The answer is what a line says after the last "The answer is: " (of MetaMathQA) or "#### " (of
    GSM8K), without ".", "!", "?", "$" and "%" around it. Numbers and fractions are equal where
    their values are, other answers to the letter. A prediction that says no answer is wrong; a
    target that says none is the answer itself.
    """
    return _percent(
        _value(_answer(prediction)) == _value(_answer(target) or target.strip())
        for target, prediction in zip(targets, predictions, strict=True)
    )


def _answer(solution: str) -> str | None:
    solution = solution.strip().rstrip(".!?")
    mark = next((mark for mark in _BEFORE_ANSWERS if mark in solution), None)
    if mark is None:
        return None
    line, *_ = solution.rpartition(mark)[2].strip().split("\n", 1)
    return line.strip(" .!?$%")


def _value(answer: str | None) -> float | str | None:
    """The number that an answer is, whole or as a fraction; else the answer."""
    above, stroke, below = (answer or "").partition("/")
    try:
        number = decimal.Decimal(above.strip())
        number = number / decimal.Decimal(below.strip()) if stroke else number
    except ArithmeticError:  # as decimal says that there is no number, or nothing to divide by
        return answer
    return float(number) if number.is_finite() else answer


def pearson(targets: Sequence[str], predictions: Sequence[str]) -> float:
    """Linear correlation of numbers written as text, -100 to 100."""
    return _correlation("pearsonr", targets, predictions)


def spearman(targets: Sequence[str], predictions: Sequence[str]) -> float:
    """Rank correlation of numbers written as text, -100 to 100."""
    return _correlation("spearmanr", targets, predictions)


def _correlation(function: str, targets: Sequence[str], predictions: Sequence[str]) -> float:
    """0 where it is not defined: when either side is constant. Text that is no number reads as -1,
    as in T5."""
    import scipy.stats  # slow to import, and rarely needed

    x, y = [_number(text) for text in targets], [_number(text) for text in predictions]
    if len(set(x)) < 2 or len(set(y)) < 2:
        return 0.0
    return 100 * float(getattr(scipy.stats, function)(x, y)[0])


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return -1.0
    return number if np.isfinite(number) else -1.0


def _percent(scores: Iterable[float]) -> float:
    return 100 * float(np.mean(list(scores)))


METRICS = {
    function.__name__: function
    for function in (
        *(accuracy, f1, macro_f1, matthews, exact_match, token_f1, final_answer),
        *(pearson, spearman),
    )
}


def get_metric(
    name: str, labels: Sequence[str] | None = None, positive: str | None = None
) -> MetricFn:
    """The metric called `name`, as a task wants it.

    Args:
      labels: the legal answers, which `f1` and `macro_f1` need.
      positive: the label that `f1` looks for; the last of `labels` if not given.

    Raises:
      ValueError: an unknown name, or no labels where they are needed.
    """
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"No metric is called {name!r}; {hint}there are {', '.join(METRICS)}.")
    options: dict[str, Any] = {}
    if name in ("f1", "macro_f1"):
        if not labels:
            raise ValueError(f"The metric {name!r} needs the task's labels: give verbalizers.")
        options["labels"] = tuple(labels)
        if name == "f1":
            options["positive"] = labels[-1] if positive is None else positive
            if options["positive"] not in labels:
                raise ValueError(f"The positive label {positive!r} is not among {list(labels)}.")
    return functools.partial(_scored, name, METRICS[name], options)


def _scored(
    name: str,
    function: Callable[..., float],
    options: Mapping[str, Any],
    targets: list[str],
    predictions: list[str],
) -> dict[str, float]:
    if not targets:
        raise ValueError(f"{name} of no predictions is not defined: the split is empty.")
    return {name: function(targets, predictions, **options)}
