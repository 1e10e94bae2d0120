"""GLUE: CoLA, SST-2, MRPC, QQP, STS-B, MNLI, QNLI, RTE, WNLI, the diagnostics AX, and mixtures.

    glue_sst2_v200                                 T5's form; `glue_forms` tells of the others
    taskless_glue_sst2_v200                        the paper's form, without the task's name
    taskless_glue_mnli_and_dev_v200                MNLI, with both validation sets
    taskless_glue_v200_proportional, _equal        all but WNLI, as T5 mixes them

Data comes from TFDS or from GLUE's release (`settings.data_dir`). Each task is there for both
versions of TFDS's data, v002 (1.0.0) and v200 (2.0.0), which differ in QQP; the release is one.
Test splits have no labels, so their targets are "<unk>", and STS-B's "-1.0".
"""

from collections.abc import Sequence
from typing import NamedTuple

from prompt_tuning_jax.data.task import MetricFn
from prompt_tuning_jax.tasks import glue_preprocessors as text
from prompt_tuning_jax.tasks import metrics, postprocessors
from prompt_tuning_jax.tasks.glue_forms import add_forms, add_mixture_forms, task_indices
from prompt_tuning_jax.tasks.glue_release import GLUE
from prompt_tuning_jax.tasks.registration import VERBALIZERS, ReleaseOrTfds

__all__ = ["VERBALIZERS"]

VERSIONS = {"v002": "1.0.0", "v200": "2.0.0"}
INDICES = task_indices(
    list(GLUE), {"ax": "mnli", "mnli_matched": "mnli", "mnli_mismatched": "mnli"}
)


class GlueTask(NamedTuple):
    """A task by its name in TFDS.

    Attributes:
      fields: those of the text, in T5's order.
      metrics: T5's. AX has none: its labels are not public.
      written: the task's name in the text, if it is another's.
    """

    name: str
    fields: Sequence[str]
    metrics: Sequence[MetricFn]
    written: str | None = None


_SENTENCES = ("sentence1", "sentence2")
_NLI = ("hypothesis", "premise")
_F1 = (metrics.f1, metrics.accuracy)
_ACCURACY = (metrics.accuracy,)

TASKS = (
    GlueTask("cola", ("sentence",), (metrics.matthews_corrcoef,)),
    GlueTask("sst2", ("sentence",), _ACCURACY),
    GlueTask("mrpc", _SENTENCES, _F1),
    GlueTask("qqp", ("question1", "question2"), _F1),
    GlueTask("stsb", _SENTENCES, (metrics.pearson_corrcoef, metrics.spearman_corrcoef)),
    GlueTask("mnli", _NLI, _ACCURACY),
    GlueTask("mnli_matched", _NLI, _ACCURACY, "mnli"),
    GlueTask("mnli_mismatched", _NLI, _ACCURACY, "mnli"),
    GlueTask("qnli", ("question", "sentence"), _ACCURACY),
    GlueTask("rte", _SENTENCES, _ACCURACY),
    GlueTask("wnli", _SENTENCES, _ACCURACY),
    GlueTask("ax", _NLI, (), "mnli"),
)

# Training examples of each task: the rates of a mixture proportional to size. T5 leaves WNLI out,
# whose validation set is made to mislead, and only evaluates those of 0.
SIZES = {
    "cola": 8_551,
    "sst2": 67_349,
    "mrpc": 3_668,
    "qqp": 363_849,
    "stsb": 5_749,
    "mnli": 392_702,
    "qnli": 104_743,
    "rte": 2_490,
    "mnli_mismatched": 0,
    "mnli_matched": 0,
    "ax": 0,
}


def _register(task: GlueTask, version: str) -> None:
    labels = GLUE[task.name].labels
    number = task.name == "stsb"
    texts = text.classification(task.written or task.name, task.fields, labels)
    add_forms(
        f"glue_{task.name}_{version}",
        ReleaseOrTfds(f"glue/{task.name}:{VERSIONS[version]}", GLUE[task.name]),
        [text.stsb if number else texts],
        index=INDICES[task.name],
        postprocess=postprocessors.number if number else postprocessors.label_of(labels),
        metrics=task.metrics,
        verbalizers=labels or None,
    )


def _register_mixtures(version: str) -> None:
    sizes = {f"glue_{task}_{version}{{examples}}": size for task, size in SIZES.items()}
    mnli = [name for name in sizes if "mnli" in name]
    add_mixture_forms(f"glue_mnli_and_dev_{version}{{examples}}", mnli)
    add_mixture_forms(f"glue_{version}{{examples}}_proportional", sizes)
    add_mixture_forms(f"glue_{version}{{examples}}_equal", list(sizes))


for _version in VERSIONS:
    for _task in TASKS:
        _register(_task, _version)
    _register_mixtures(_version)
