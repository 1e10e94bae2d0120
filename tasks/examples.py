"""Tasks called `..._examples`: evaluation also writes texts, for TensorBoard and for reading.

Predictions then carry their texts, so that beside each score some examples can be shown, and some
of those that are wrong.
"""

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import seqio

from prompt_tuning_jax.data.task import MetricFn

SUFFIX = "_examples"
SHOWN = 8

Postprocessor = Callable[..., Any]


class Prediction(NamedTuple):
    """What a metric compares, and the texts it was made from."""

    value: Any
    text: str
    inputs: str
    target: str


def carrying_texts(postprocess: Postprocessor | None) -> Postprocessor:
    """`postprocess`, whose predictions become `Prediction`s; its targets stay as they are."""

    def wrapped(text: str, example: Mapping[str, Any] | None = None, is_target: bool = False):
        value = postprocess(text, example=example, is_target=is_target) if postprocess else text
        if is_target:
            return value
        inputs, target = (example[f"{name}_pretokenized"] for name in ("inputs", "targets"))
        return Prediction(value, text, _text(inputs), _text(target))

    return wrapped


def _text(value: str | bytes) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def showing(title: str, metrics: Sequence[MetricFn]) -> list[Callable]:
    """`metrics` of the values of `Prediction`s, and what shows some of those predictions."""
    return [*map(_of_values, metrics), functools.partial(_samples, title=title)] if metrics else []


def _of_values(metric: MetricFn) -> MetricFn:
    def wrapped(targets, predictions):
        return metric(targets, [prediction.value for prediction in predictions])

    return wrapped


def _samples(targets, predictions, *, title: str) -> dict[str, seqio.metrics.Text]:
    pairs = zip(targets, predictions, strict=True)
    wrong = [prediction for target, prediction in pairs if prediction.value != target]
    return {
        f"{title} samples": seqio.metrics.Text(_listed(predictions)),
        f"{title} negative samples": seqio.metrics.Text(_listed(wrong)),
    }


def _listed(predictions: Sequence[Prediction]) -> str:
    """A sample by the same seed each time, so that one can follow the same examples."""
    some = random.Random(0).sample(predictions, min(SHOWN, len(predictions)))
    return "\n\n".join(
        f"example: {each.inputs}\n\ntarget: {each.target}\n\nprediction: {each.text}"
        for each in some
    )
