"""Tasks whose answer is free text are registered twice.

xsum_v110
xsum_v110_examples      evaluation writes texts too (`tasks.examples`)
"""

from collections.abc import Callable, Sequence

import seqio

from prompt_tuning_jax.data.task import MetricFn
from prompt_tuning_jax.tasks import examples
from prompt_tuning_jax.tasks.registration import add, add_mixture

SUFFIXES = ("", examples.SUFFIX)


def add_forms(
    name: str,
    source: seqio.DataSource,
    preprocessors: Sequence[Callable],
    *,
    metrics: Sequence[MetricFn],
    postprocess: Callable | None = None,
) -> None:
    """`registration.add` in both forms."""
    for suffix in SUFFIXES:
        add(
            name + suffix,
            source,
            preprocessors,
            postprocess=examples.carrying_texts(postprocess) if suffix else postprocess,
            metrics=examples.showing(name, metrics) if suffix else metrics,
        )


def add_mixture_forms(name: str, members: Sequence[str]) -> None:
    """Registers a mixture, in equal parts, of each form of its members."""
    for suffix in SUFFIXES:
        add_mixture(name + suffix, [member + suffix for member in members])
