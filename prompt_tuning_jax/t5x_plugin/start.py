"""Where the prompt of a T5X run starts, and what the task and the checkpoint say about it."""

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import seqio
from jaxtyping import Float
from tensorflow.io import gfile

from prompt_tuning_jax import initializers
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS, bundled_task
from prompt_tuning_jax.checkpoints.t5x_checkpoint import open_checkpoint, prompt_names
from prompt_tuning_jax.checkpoints.t5x_storage import Leaf
from prompt_tuning_jax.t5.config import T5Config
from prompt_tuning_jax.t5x_plugin.prompt_files import read_prompt
from prompt_tuning_jax.t5x_plugin.restore import Start
from prompt_tuning_jax.vocabulary import Vocabulary

EMBEDDING = "token_embedder/embedding"


def prompt_start(
    init: Any,
    checkpoint: str,
    vocabulary: seqio.Vocabulary,
    verbalizers: Sequence[str] | None = None,
    seed: int | None = 0,
) -> Start:
    """(P, D) -> the prompt's first values: those of this library's own trainer for the same seed.

    Nothing is read before the values are asked for: a run that continues asks for none.

    Args:
      init: as `initializers.resolve` has it: an initializer, "uniform", "sampled_vocabulary",
        "class_labels", "text: ...", or a prompt file; None for class labels where there are
        verbalizers, else sampled vocabulary.
      checkpoint: the base checkpoint, whose embedding table these take rows from.
      vocabulary: the model's.
      verbalizers: the task's label words.
      seed: None, by which T5X means any, is 0 here: all hosts must start from one prompt.
    """
    if isinstance(init, str) and _is_file(init):
        return tuned_prompt(init, checkpoint)

    def values(shape: tuple[int, int]) -> Float[np.ndarray, "P D"]:
        initializer = initializers.resolve(
            init, _Table(checkpoint), library_vocabulary(vocabulary), verbalizers
        )
        return np.asarray(initializer(jax.random.key(seed or 0), shape))

    return values


def tuned_prompt(prompt_file: str | None, checkpoint: str, config: T5Config | None = None) -> Start:
    """(P, D) -> the prompt in a file or, without one, in a checkpoint.

    Args:
      config: the model's, whose prompt must see what a prompt in a file was tuned to see.

    Raises:
      ValueError: (when asked for values) there is none, or one of another shape than the model's,
        or of another visibility.
    """

    def values(shape: tuple[int, int]) -> Float[np.ndarray, "P D"]:
        if prompt_file is not None and config is not None:
            _check_visibility(prompt_file, config)
        found = _tuned(prompt_file, checkpoint)
        if found.shape != shape:
            raise ValueError(
                f"The prompt in {prompt_file or checkpoint} is {list(found.shape)}, this model's "
                f"{list(shape)}: set PROMPT_LENGTH to {found.shape[0]}, and use a model of width "
                f"{found.shape[1]}."
            )
        return found

    return values


def prompt_length(prompt_file: str | None, checkpoint: str) -> int:
    """The length of the same prompt."""
    return _tuned(prompt_file, checkpoint).shape[0]


def _tuned(prompt_file: str | None, checkpoint: str) -> Float[np.ndarray, "P D"]:
    if prompt_file is not None:
        return read_prompt(prompt_file).values
    opened = open_checkpoint(checkpoint)
    if not (names := prompt_names(opened)):
        raise ValueError(
            f"{checkpoint} holds no prompt: give PROMPT_FILE, a prompt tuned for this model."
        )
    return opened.leaf(names[0]).read().astype(np.float32)


def _check_visibility(prompt_file: str, config: T5Config) -> None:
    theirs, ours = read_prompt(prompt_file).visibility, config.prompt_visibility
    if theirs != ours:
        raise ValueError(
            f"The prompt in {prompt_file} was tuned with the visibility {theirs!r}, this model's "
            f"is {ours!r}: bind prompt_visibility of the model's T5Config to {theirs!r}."
        )


def verbalizers(task: str, module: str | None = None) -> Sequence[str] | None:
    """The label words of a bundled task, or those that the task's module gives in `VERBALIZERS`."""
    if task in BUNDLED_TASKS:
        return bundled_task(task).verbalizers
    declared = getattr(importlib.import_module(module), "VERBALIZERS", {}) if module else {}
    return declared.get(task)


def task_vocabulary(task: str, module: str | None = None) -> seqio.Vocabulary:
    """The vocabulary of a task's inputs."""
    if module:
        importlib.import_module(module)
    return seqio.get_mixture_or_task(task).output_features["inputs"].vocabulary


def library_vocabulary(vocabulary: seqio.Vocabulary) -> Vocabulary | None:
    """A SeqIO vocabulary as this library's; None where it is not SentencePiece's."""
    if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return None
    path = vocabulary.sentencepiece_model_file
    with gfile.GFile(path, "rb") as file:
        return Vocabulary(file.read(), vocabulary.extra_ids, path)


class _Table:
    """The embedding table of a checkpoint; only the rows that are asked for are read."""

    def __init__(self, checkpoint: str):
        self._checkpoint = checkpoint

    @functools.cached_property
    def _leaf(self) -> Leaf:
        opened = open_checkpoint(self._checkpoint)
        # A decoder-only model has its table inside the decoder.
        return opened.leaf(next((n for n in opened.sources if _is_table(n)), EMBEDDING))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._leaf.shape

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):  # past the end is an error to tensorstore, not to numpy
            index = slice(*index.indices(self.shape[0]))
        return self._leaf.read(index)


def _is_table(name: str) -> bool:
    return name.startswith("target/") and name.endswith(EMBEDDING)


def _is_file(init: str) -> bool:
    return init not in ("uniform", "sampled_vocabulary", "class_labels") and init[:5] != "text:"
