"""MRPC to QQP and QQP to MRPC: a model tuned on one paraphrase task, evaluated on the other.

The tasks ask the same of two sentences in different words: "equivalent", "duplicate".
`glue_qqp_from_mrpc_v200` is QQP's validation set, in whose scores the words of a model that learnt
MRPC count as QQP's. `glue_qqp_from_mrpc_zeroshot_v200` trains on MRPC, and is evaluated on it and
on that. All are there in the forms that `glue_forms` tells of.

What a model may answer are the words it was tuned on, so these are the verbalizers.
"""

import itertools

from prompt_tuning_jax.tasks import glue, postprocessors
from prompt_tuning_jax.tasks.glue_forms import add_forms, add_mixture_forms
from prompt_tuning_jax.tasks.glue_preprocessors import classification
from prompt_tuning_jax.tasks.glue_release import GLUE
from prompt_tuning_jax.tasks.registration import VERBALIZERS, ReleaseOrTfds

__all__ = ["VERBALIZERS"]

WORDS = {"mrpc": "equivalent", "qqp": "duplicate"}
TASKS = {task.name: task for task in glue.TASKS}


def _register(source: str, target: str, version: str) -> None:
    labels = GLUE[target].labels
    name = f"glue_{target}_from_{source}"
    add_forms(
        f"{name}_{version}",
        ReleaseOrTfds(f"glue/{target}:{glue.VERSIONS[version]}", GLUE[target], ["validation"]),
        [classification(target, TASKS[target].fields, labels)],
        index=glue.INDICES[target],
        postprocess=postprocessors.translated(
            WORDS[source], into=WORDS[target], then=postprocessors.label_of(labels)
        ),
        metrics=TASKS[target].metrics,
        verbalizers=GLUE[source].labels,
    )
    add_mixture_forms(
        f"{name}_zeroshot_{version}{{examples}}",
        [f"glue_{source}_{version}", f"{name}_{version}{{examples}}"],
    )


for _source, _target in itertools.permutations(WORDS):
    for _version in glue.VERSIONS:
        _register(_source, _target, _version)
