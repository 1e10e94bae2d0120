"""Registers the bundled tasks with SeqIO, under the same names.

import prompt_tuning_jax.tasks.bundled
seqio.get_mixture_or_task("bundled_sentiment")
"""

import functools

import seqio
import tensorflow as tf

from prompt_tuning_jax.bundled.tasks import (
    BUNDLED_TASKS,
    SIZES,
    BundledTask,
    bundled_examples,
    bundled_task,
)
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED

VOCABULARY_FILE = BUNDLED / "spiece.model"
EXTRA_IDS = 100


def dataset(split: str, shuffle_files: bool = False, seed: int | None = None, *, name: str):
    """One split as a `tf.data.Dataset` of {"inputs", "targets"} texts, in the task's own order."""
    del shuffle_files, seed  # nothing to shuffle: there are no files
    examples = bundled_examples(name, split)
    return tf.data.Dataset.from_tensor_slices(
        {field: [example[field] for example in examples] for field in ("inputs", "targets")}
    )


def register(name: str, task: BundledTask) -> seqio.Task:
    """Adds one bundled task to SeqIO's registry.

    Raises:
      FileNotFoundError: the bundled model's vocabulary is not installed.
    """
    if not VOCABULARY_FILE.is_file():
        raise FileNotFoundError(
            f"No vocabulary at {VOCABULARY_FILE}: the bundled model is missing from this "
            "installation. Install the package again, or put the model's spiece.model there."
        )
    vocabulary = seqio.SentencePieceVocabulary(str(VOCABULARY_FILE), EXTRA_IDS)
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            functools.partial(dataset, name=name), splits=tuple(SIZES), num_input_examples=SIZES
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={
            "inputs": seqio.Feature(vocabulary, add_eos=True),
            "targets": seqio.Feature(vocabulary, add_eos=True),
        },
        metric_fns=list(bundled_task(name).metrics),
    )


for _name, _task in BUNDLED_TASKS.items():
    register(_name, _task)
