"""The forms in which each GLUE and SuperGLUE task is registered.

    glue_rte_v200                     T5's: inputs begin with the task's name
    taskless_glue_rte_v200            the paper's: without it
    task_index_glue_rte_v200          a sentinel that stands for the task, instead of its name

and each again with the suffix `_examples`, whose evaluation writes texts too (`tasks.examples`).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import seqio

from prompt_tuning_jax.data.task import MetricFn
from prompt_tuning_jax.tasks import examples
from prompt_tuning_jax.tasks.glue_preprocessors import sentinel_first, without_task_name
from prompt_tuning_jax.tasks.registration import add, add_mixture

T5, PAPER, TASK_INDEX = "", "taskless_", "task_index_"
FORMS = (T5, PAPER, TASK_INDEX)
SUFFIXES = ("", examples.SUFFIX)


def add_forms(
    name: str,
    source: seqio.DataSource,
    preprocessors: Sequence[Callable],
    *,
    index: int,
    postprocess: Callable | None = None,
    metrics: Sequence[MetricFn] = (),
    verbalizers: Sequence[str] | None = None,
) -> None:
    """`registration.add` in all forms; the task's sentinel is `<extra_id_index>`."""
    for form, suffix in itertools.product(FORMS, SUFFIXES):
        add(
            form + name + suffix,
            source,
            [*preprocessors, *([] if form == T5 else [without_task_name])],
            token_preprocessors=[sentinel_first("inputs", index)] if form == TASK_INDEX else [],
            verbalizers=verbalizers,
            postprocess=examples.carrying_texts(postprocess) if suffix else postprocess,
            metrics=examples.showing(name, metrics) if suffix else metrics,
        )


def add_mixture_forms(
    name: str, rates: Mapping[str, float] | Sequence[str], forms: Sequence[str] = FORMS
) -> None:
    """Registers a mixture of tasks in some of their forms; all names hold `{examples}`."""
    rates = rates if isinstance(rates, Mapping) else dict.fromkeys(rates, 1.0)
    for form, suffix in itertools.product(forms, SUFFIXES):
        add_mixture(
            form + name.format(examples=suffix),
            {form + task.format(examples=suffix): rate for task, rate in rates.items()},
        )


def task_indices(tasks: Sequence[str], same: Mapping[str, str]) -> dict[str, int]:
    """Numbers the tasks in alphabetical order; those in `same` have the number of another task."""
    numbers = {task: i for i, task in enumerate(sorted(set(tasks) - set(same)))}
    return numbers | {task: numbers[other] for task, other in same.items()}
