"""Targets that begin with a sentinel: the paper's "span corruption + sentinel" (section 3.2).

A model that was trained on nothing but span corruption begins whatever it says with a sentinel.
`sentinel_taskless_super_glue_boolq_v102` is the paper's form of BoolQ for such a model: its targets
begin with <extra_id_0>, which scores overlook. Every task of SuperGLUE and GLUE has this form, and
so has the mixture that WSC is.
"""

import itertools

import seqio

from prompt_tuning_jax.tasks import glue, super_glue
from prompt_tuning_jax.tasks.glue_forms import PAPER
from prompt_tuning_jax.tasks.glue_preprocessors import sentinel_first
from prompt_tuning_jax.tasks.postprocessors import SENTINEL, without_sentinel
from prompt_tuning_jax.tasks.registration import VERBALIZERS, add, add_mixture

__all__ = ["VERBALIZERS"]

FORM = "sentinel_"
WSC = f"{PAPER}super_glue_wsc_and_dev_v102_simple"
WSC_PARTS = [f"{PAPER}super_glue_wsc_v102_simple_{part}" for part in ("train", "eval")]
TASKS = [
    *(f"{PAPER}super_glue_{task.name}_v102" for task in super_glue.TASKS),
    *WSC_PARTS,
    *(f"{PAPER}glue_{task.name}_{version}" for task in glue.TASKS for version in glue.VERSIONS),
]


def register(name: str) -> None:
    """Registers a task once more, with the sentinel before its targets and its answers."""
    task = seqio.TaskRegistry.get(name)
    texts = itertools.takewhile(
        lambda step: step is not seqio.preprocessors.tokenize, task.preprocessors
    )
    answers = VERBALIZERS.get(name)
    add(
        FORM + name,
        task.source,
        list(texts),
        token_preprocessors=[sentinel_first("targets")],
        verbalizers=answers and [f"{SENTINEL} {answer}" for answer in answers],
        postprocess=without_sentinel(task.postprocess_fn),
        metrics=task.metric_fns,
    )


for _name in TASKS:
    register(_name)
add_mixture(FORM + WSC, [FORM + name for name in WSC_PARTS])
