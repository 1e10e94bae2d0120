"""Where the prompt of a T5X run starts, and what its file or checkpoint says about it."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import seqio
from jaxtyping import Float

from prompt_tuning_jax import initializers
from prompt_tuning_jax.checkpoints.stored_array import StoredArray
from prompt_tuning_jax.checkpoints.t5x.checkpoint import open_checkpoint, prompt_names
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.t5x_plugin.methods.method import PromptStart
from prompt_tuning_jax.t5x_plugin.save import base_fingerprint, prompts_beside, read_prompt
from prompt_tuning_jax.training.prompt_start import resolve, text_of
from prompt_tuning_jax.tuned_prompt import TunedPrompt, check_compatible

EMBEDDING = "token_embedder/embedding"


def prompt_start(
    init: Any,
    checkpoint: str,
    vocabulary: seqio.Vocabulary,
    verbalizers: Sequence[str] | None = None,
    seed: int | None = 0,
    population_size: int | None = initializers.PAPER_POPULATION,
    allow_prompt_mismatch: bool = False,
) -> PromptStart:
    """(P, D) -> the prompt's first values: those of this library's own trainer for the same seed.

    Nothing is read before the values are asked for: a run that continues asks for none.

    Args:
      init: as `prompt_start.resolve` has it: an initializer, "uniform", "sampled_vocabulary",
        "class_labels", "text: ...", or a prompt file; None for class labels where there are
        verbalizers, else sampled vocabulary.
      checkpoint: the base checkpoint, whose embedding table these take rows from.
      vocabulary: the model's.
      verbalizers: the task's label words.
      seed: None, by which T5X means any, is 0 here: all hosts must start from one prompt.
      population_size: how many of the first pieces rows are sampled from; None for all.
      allow_prompt_mismatch: whether to take a prompt file of another base model.
    """

    def values(shape: tuple[int, int]) -> Float[np.ndarray, "P D"]:
        initializer = resolve(
            init,
            Table(checkpoint),
            vocabulary,
            verbalizers,
            check=functools.partial(_check_model, checkpoint, allow_prompt_mismatch),
            population_size=population_size,
            read=read_prompt,
        )
        return np.asarray(initializer(jax.random.key(seed or 0), shape))

    return values


def text_length(init: str, vocabulary: seqio.Vocabulary) -> int:
    """How many rows the text of "text: ..." takes: a `PROMPT_LENGTH` that holds all of it.

    Raises:
      ValueError: `init` is no such text.
    """
    words = text_of(init)
    if words is None:
        raise ValueError(
            f"PROMPT_LENGTH is that of a text, but PROMPT_INIT is {init!r} and not 'text: ...'."
        )
    return len(vocabulary.encode(words))


def tuned_prompt(
    prompt_file: str | None,
    checkpoint: str,
    config: T5Config | None = None,
    allow_prompt_mismatch: bool = False,
) -> PromptStart:
    """(P, D) -> the prompt in a file or, without one, in a checkpoint.

    Args:
      checkpoint: the base checkpoint, whose weights must be those that a file's prompt was tuned
        for, or that of a training run.
      config: the model's, whose prompt must see what a prompt in a file was tuned to see.
      allow_prompt_mismatch: whether to take a prompt that was tuned for other weights.

    Raises:
      ValueError: (when asked for values) there is none, or one of another shape than the model's,
        of another visibility, or for other weights.
    """

    def values(shape: tuple[int, int]) -> Float[np.ndarray, "P D"]:
        prompt = read_prompt(prompt_file) if prompt_file else _in_checkpoint(checkpoint)
        if prompt.shape != shape:
            raise ValueError(
                f"The prompt in {prompt_file or checkpoint} is {list(prompt.shape)}, this model's "
                f"{list(shape)}: set PROMPT_LENGTH to {prompt.shape[0]}, and use a model of width "
                f"{prompt.shape[1]}."
            )
        if prompt_file:
            _check_visibility(prompt_file, prompt, config)
            _check_model(checkpoint, allow_prompt_mismatch, prompt)
        return prompt.values

    return values


def prompt_length(prompt_file: str | None, checkpoint: str) -> int:
    """The length of the same prompt; a checkpoint's is said by the prompt file of its step."""
    path = prompt_file or prompts_beside(checkpoint)
    return (read_prompt(path) if path else _in_checkpoint(checkpoint)).shape[0]


def prompt_layout(prompt_file: str | None, checkpoint: str) -> str:
    """Where the same prompt stands; a checkpoint's is said by the prompt file of its step."""
    path = prompt_file or prompts_beside(checkpoint)
    return read_prompt(path).layout if path else "prefix"


def _in_checkpoint(checkpoint: str) -> TunedPrompt:
    opened = open_checkpoint(checkpoint)
    if not (names := prompt_names(opened)):
        raise ValueError(
            f"{checkpoint} holds no prompt: give PROMPT_FILE, a prompt tuned for this model; of a "
            "method in a prompt's place, ADAPTER_FILE."
        )
    return TunedPrompt(opened.leaf(names[0]).read().astype(np.float32))


def _check_visibility(prompt_file: str, prompt: TunedPrompt, config: T5Config | None) -> None:
    if config is not None and prompt.visibility != config.prompt_visibility:
        raise ValueError(
            f"The prompt in {prompt_file} was tuned with the visibility {prompt.visibility!r}, "
            f"this model's is {config.prompt_visibility!r}: bind prompt_visibility of the model's "
            f"T5Config to {prompt.visibility!r}."
        )


def _check_model(checkpoint: str, allow_prompt_mismatch: bool, prompt: TunedPrompt) -> None:
    """Refuses a prompt of other weights, on all hosts alike."""
    if not allow_prompt_mismatch and prompt.base_fingerprint is not None:
        check_compatible(prompt, fingerprint=base_fingerprint(checkpoint))


class Table:
    """The embedding table of a checkpoint; only the rows that are asked for are read."""

    def __init__(self, checkpoint: str):
        self._checkpoint = checkpoint

    @functools.cached_property
    def _stored(self) -> StoredArray:
        opened = open_checkpoint(self._checkpoint)
        # A decoder-only model has its table inside the decoder.
        return opened.leaf(next((n for n in opened.sources if _is_table(n)), EMBEDDING))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._stored.shape

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._stored.rows(index)


def _is_table(name: str) -> bool:
    return name.startswith("target/") and name.endswith(EMBEDDING)
