"""Scores of postprocessed predictions, in percent, under T5's names.

Each is a function (targets, predictions) -> {name: score}, on what `postprocessors` gives: numbers
of labels (-1 where a prediction is no label), texts, or {"value", "group"} dictionaries. What they
compute is in `prompt_tuning_jax.data.metrics`.
"""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning_jax.data import metrics
from prompt_tuning_jax.data.task import MetricFn

Grouped = Mapping[str, Any]

ROUGE_SCORES = ("rouge1", "rouge2", "rougeLsum")
BOOTSTRAP_SAMPLES = 1000


def accuracy(targets: Sequence, predictions: Sequence) -> dict[str, float]:
    return {"accuracy": metrics.accuracy(targets, predictions)}


def f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """F1 of label 1; a prediction that is neither 0 nor 1 counts as the wrong one of them."""
    return {"f1": metrics.f1(targets, predictions, labels=(0, 1), positive=1)}


def multiclass_f1(num_classes: int) -> MetricFn:
    """Mean over the classes of each one's F1 (CB)."""
    return functools.partial(_multiclass_f1, num_classes=num_classes)


def _multiclass_f1(
    targets: Sequence[int], predictions: Sequence[int], *, num_classes: int
) -> dict[str, float]:
    score = metrics.macro_f1(targets, predictions, labels=range(num_classes))
    return {f"mean_{num_classes}class_f1": score}


def multirc_f1(targets: Sequence[Grouped], predictions: Sequence[Grouped]) -> dict[str, float]:
    """F1a: F1 over all answers of all questions."""
    return f1(_values(targets), _values(predictions))


def multirc_exact_match(
    targets: Sequence[Grouped], predictions: Sequence[Grouped]
) -> dict[str, float]:
    """Share of the questions whose answers are all judged rightly."""
    right = collections.defaultdict(list)
    for target, prediction in zip(targets, predictions, strict=True):
        right[_group(target)].append(target["value"] == prediction["value"])
    return {"exact_match": 100 * float(np.mean([all(each) for each in right.values()]))}


def record(targets: Sequence[Grouped], predictions: Sequence[Grouped]) -> dict[str, float]:
    """SQuAD's scores over queries: the first prediction for each, against its best answer."""
    first = {}
    for target, prediction in zip(targets, predictions, strict=True):
        first.setdefault(_group(target), (target["value"], prediction["value"]))
    answers, found = zip(*first.values(), strict=True)
    return squad(answers, found)


def _values(grouped: Sequence[Grouped]) -> list:
    return [each["value"] for each in grouped]


def _group(target: Grouped) -> Any:
    group = target["group"]
    return tuple(group) if isinstance(group, list) else group


def squad(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Exact match and word F1 after SQuAD's normalisation, against the best answer of each."""
    return {
        "em": metrics.exact_match(targets, predictions),
        "f1": metrics.token_f1(targets, predictions),
    }


def matthews_corrcoef(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    return {"matthews_corrcoef": metrics.matthews(targets, predictions)}


def pearson_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    return {"pearson_corrcoef": metrics.pearson(targets, predictions)}


def spearman_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    return {"spearman_corrcoef": metrics.spearman(targets, predictions)}


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """F-measures of ROUGE-1, ROUGE-2 and summary-level ROUGE-L, without stemming.

    Each is the median over 1000 resamplings of the mean, as T5 reports it, but here they are always
    the same ones.

    Raises:
      ImportError: rouge-score is not installed.
    """
    score = _rouge_scorer()
    scores = [
        [each.fmeasure for each in score(_one_sentence_a_line(t), _one_sentence_a_line(p))]
        for t, p in zip(targets, predictions, strict=True)
    ]
    medians = 100 * _median_of_resampled_means(np.array(scores))
    return dict(zip(ROUGE_SCORES, medians.tolist(), strict=True))


def _rouge_scorer() -> Callable[[str, str], list]:
    try:
        from rouge_score import rouge_scorer  # slow to import, and only summaries need it
    except ImportError as error:
        raise ImportError(
            "ROUGE needs rouge-score: pip install 'prompt-tuning-jax[data]'"
        ) from error
    scorer = rouge_scorer.RougeScorer(ROUGE_SCORES)

    def score(target: str, prediction: str) -> list:
        found = scorer.score(target=target, prediction=prediction)
        return [found[name] for name in ROUGE_SCORES]

    return score


def _one_sentence_a_line(text: str) -> str:
    """Summary-level ROUGE-L compares line by line; T5 ends a line at a full stop between spaces."""
    return text.replace(" . ", " .\n")


def _median_of_resampled_means(scores: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    count = len(scores)
    means = [scores[rng.integers(count, size=count)].mean(0) for _ in range(BOOTSTRAP_SAMPLES)]
    return np.median(means, axis=0)
