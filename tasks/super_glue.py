"""SuperGLUE: BoolQ, CB, COPA, MultiRC, ReCoRD, RTE, WiC, WSC, its diagnostics, and its mixtures.

    super_glue_boolq_v102                            T5's form; `glue_forms` tells of the others
    taskless_super_glue_boolq_v102                   the paper's form, without the task's name
    taskless_super_glue_wsc_and_dev_v102_simple      WSC as generation: trained on true referents,
                                                     evaluated on all
    super_glue_wsc.fixed_v102                        WSC as classification
    taskless_dpr_v001_simple                         definite pronouns, as WSC
    taskless_super_glue_v102_proportional, _equal    all eight at once
    taskless_super_glue_with_dpr_v102_proportional   and DPR too, as T5's own mixture has it:
    super_glue_v102_proportional

Data comes from TFDS or from SuperGLUE's release (`settings.data_dir`). The splits are train,
validation and test, whose targets are "<unk>": its labels are not public.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from prompt_tuning_jax.data.task import MetricFn
from prompt_tuning_jax.tasks import glue_preprocessors as text
from prompt_tuning_jax.tasks import metrics, postprocessors
from prompt_tuning_jax.tasks.glue_forms import (
    PAPER,
    T5,
    TASK_INDEX,
    add_forms,
    add_mixture_forms,
    task_indices,
)
from prompt_tuning_jax.tasks.registration import VERBALIZERS, ReleaseOrTfds
from prompt_tuning_jax.tasks.super_glue_release import SUPER_GLUE, DprRelease

__all__ = ["VERBALIZERS", "average"]

INDICES = task_indices([*SUPER_GLUE, "wsc"], {"wsc.fixed": "wsc", "axb": "rte", "axg": "rte"})


class SuperGlueTask(NamedTuple):
    """A task by its name in TFDS.

    Attributes:
      preprocessor: makes T5's texts.
      metrics: T5's; for the diagnostics, which T5 does not score, the benchmark's.
      postprocess: None for the number of the label.
    """

    name: str
    preprocessor: Callable
    metrics: Sequence[MetricFn]
    postprocess: Callable | None = None


def _texts(name: str, *fields: str) -> Callable:
    return text.classification(name, fields, SUPER_GLUE[name].labels)


def _as_rte(name: str, **fields: str) -> Callable:
    """The diagnostics are read as RTE, whose labels are theirs."""
    return text.classification("rte", fields, SUPER_GLUE[name].labels)


TASKS = (
    SuperGlueTask("boolq", _texts("boolq", "passage", "question"), [metrics.accuracy]),
    SuperGlueTask(
        "cb", _texts("cb", "hypothesis", "premise"), [metrics.multiclass_f1(3), metrics.accuracy]
    ),
    SuperGlueTask(
        "copa", _texts("copa", "choice1", "choice2", "premise", "question"), [metrics.accuracy]
    ),
    SuperGlueTask(
        "multirc",
        text.multirc,
        [metrics.multirc_f1, metrics.multirc_exact_match],
        postprocessors.multirc,
    ),
    SuperGlueTask("record", text.record, [metrics.record], postprocessors.record),
    SuperGlueTask("rte", _texts("rte", "hypothesis", "premise"), [metrics.accuracy]),
    SuperGlueTask("wic", _texts("wic", "sentence1", "sentence2", "word"), [metrics.accuracy]),
    SuperGlueTask("wsc.fixed", text.wsc, [metrics.accuracy]),
    SuperGlueTask(
        "axb",
        _as_rte("axb", hypothesis="sentence2", premise="sentence1"),
        [metrics.matthews_corrcoef],
    ),
    SuperGlueTask(
        "axg", _as_rte("axg", hypothesis="hypothesis", premise="premise"), [metrics.accuracy]
    ),
)

for _task in TASKS:
    _labels = SUPER_GLUE[_task.name].labels
    add_forms(
        f"super_glue_{_task.name}_v102",
        ReleaseOrTfds(f"super_glue/{_task.name}:1.0.2", SUPER_GLUE[_task.name]),
        [_task.preprocessor],
        index=INDICES[_task.name],
        postprocess=_task.postprocess or postprocessors.label_of(_labels),
        metrics=_task.metrics,
        verbalizers=_labels or None,
    )

# WSC as generation, in two tasks: what is trained on has true referents only, and is not scored.
_WSC_TFDS = "super_glue/wsc.fixed:1.0.2"
add_forms(
    "super_glue_wsc_v102_simple_train",
    ReleaseOrTfds(_WSC_TFDS, SUPER_GLUE["wsc.fixed"], ["train"]),
    [functools.partial(text.wsc_simple, true_only=True)],
    index=INDICES["wsc"],
)
add_forms(
    "super_glue_wsc_v102_simple_eval",
    ReleaseOrTfds(_WSC_TFDS, SUPER_GLUE["wsc.fixed"], ["validation", "test"]),
    [functools.partial(text.wsc_simple, true_only=False)],
    index=INDICES["wsc"],
    postprocess=postprocessors.wsc,
    metrics=[metrics.accuracy],
)
add_forms(
    "dpr_v001_simple",
    ReleaseOrTfds("definite_pronoun_resolution:1.1.0", DprRelease()),
    [text.definite_pronoun_resolution],
    index=INDICES["wsc"],
    metrics=[metrics.accuracy],
)

# Training examples of each task: the rates of a mixture proportional to size.
SIZES = {
    "super_glue_boolq_v102{examples}": 9_427,
    "super_glue_cb_v102{examples}": 250,
    "super_glue_copa_v102{examples}": 400,
    "super_glue_multirc_v102{examples}": 27_243,
    "super_glue_record_v102{examples}": 138_854,
    "super_glue_rte_v102{examples}": 2_490,
    "super_glue_wic_v102{examples}": 5_428,
    "super_glue_wsc_v102_simple_train{examples}": 259,
    "super_glue_wsc_v102_simple_eval{examples}": 0,
}
DIAGNOSTICS = {"super_glue_axb_v102{examples}": 0, "super_glue_axg_v102{examples}": 0}
WITH_DPR = SIZES | {"dpr_v001_simple{examples}": 1_322}

add_mixture_forms(
    "super_glue_wsc_and_dev_v102_simple{examples}", [name for name in SIZES if "wsc" in name]
)
for _name, _forms, _sizes in (
    ("super_glue_v102{examples}", [T5], WITH_DPR | DIAGNOSTICS),
    ("super_glue_v102{examples}", [PAPER, TASK_INDEX], SIZES),
    ("super_glue_with_dpr_v102{examples}", [PAPER, TASK_INDEX], WITH_DPR),
):
    add_mixture_forms(f"{_name}_proportional", _sizes, _forms)
    add_mixture_forms(f"{_name}_equal", list(_sizes), _forms)

BENCHMARK = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")


def average(scores: Mapping[str, float]) -> float:
    """SuperGLUE's overall score: the mean over its eight tasks of the mean of each one's metrics.

    Args:
      scores: "task/metric" -> percent, as evaluating a mixture gives them; a task is known by the
        benchmark's name in its own, in any form. Anything else, such as "mean", is left out.

    Raises:
      ValueError: a task has no score.
    """
    found = {
        task: [
            score
            for name, score in scores.items()
            if "/" in name and task in name.partition("/")[0].split("_")
        ]
        for task in BENCHMARK
    }
    missing = [task for task, values in found.items() if not values]
    if missing:
        raise ValueError(
            f"SuperGLUE's average needs all eight tasks; no scores of {', '.join(missing)}"
        )
    return float(np.mean([np.mean(values) for values in found.values()]))
