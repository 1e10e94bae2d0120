"""What a T5X run says about its task: whose vocabulary, where its data lie, its label words."""

import os
from collections.abc import Sequence

import seqio

from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS, bundled_task
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.data.seqio_source import declared_verbalizers, find_provider
from prompt_tuning_jax.t5x_plugin.together import mixed
from prompt_tuning_jax.tasks import settings


def ready(
    name: str | Sequence[str],
    vocabulary: seqio.Vocabulary,
    module: str | None = None,
    data_dir: str | None = None,
) -> str:
    """The name of a task or mixture that is registered and knows the run's model and data.

    Of several names it is that of a mixture, see `together.mixed`.

    Bound as `DatasetConfig.mixture_or_task_name`, so that it happens before T5X asks for examples.
    The package's tasks make their token ids with whatever vocabulary the model has: T5's, mT5's
    or ByT5's.

    Args:
      vocabulary: the model's.
      module: the Python module that registers the task.
      data_dir: the directory with the data sets' release files, for tasks that read them; None for
        what the environment says, or TFDS.

    Raises:
      ValueError: no such module, task or feature, or a task with another vocabulary.
    """
    if not isinstance(name, str):
        return mixed(name, vocabulary, module, data_dir)
    find_provider(name, module, vocabulary, data_dir)
    return name


def vocabulary(file: str | os.PathLike) -> seqio.Vocabulary:
    """A model's vocabulary.

    Args:
      file: its spiece.model, local or remote, to which T5's extra ids are added where it does not
        hold them; "bundled" for the bundled model's; "bytes" for ByT5's, which has no file.

    Raises:
      FileNotFoundError, ValueError: there is no such file, or it is no SentencePiece model.
    """
    if file == "bytes":
        return seqio.ByteVocabulary()
    path = BUNDLED / "spiece.model" if file == "bundled" else file
    return settings.read_vocabulary(os.fspath(path))


def verbalizers(task: str | Sequence[str], module: str | None = None) -> Sequence[str] | None:
    """The label words of a bundled task, or those that the task's module gives in `VERBALIZERS`.

    Of several tasks there are none.
    """
    if not isinstance(task, str):
        return None
    if task in BUNDLED_TASKS:
        return bundled_task(task).verbalizers
    return declared_verbalizers(task, module)
