"""Where a prompt starts, as a setting says it: a name, a text, a prompt file, an initializer.

(The nearest of other tasks' prompts is `transfer.nearest`, and found in `set_up`.)
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.initializers import (
    PAPER_POPULATION,
    Embeddings,
    Initializer,
    Vocabulary,
    class_labels,
    sampled_vocabulary,
    text,
    uniform,
)
from prompt_tuning_jax.training.transfer import nearest
from prompt_tuning_jax.tuned_prompt import TunedPrompt

NAMED = ("uniform", "sampled_vocabulary", "class_labels")  # settings that `resolve` knows by name


def resolve(
    spec: Any,
    embeddings: Embeddings,
    vocabulary: Vocabulary | None,
    verbalizers: Sequence[str] | None,
    check: Callable[[TunedPrompt], None] | None = None,
    *,
    population_size: int | None = PAPER_POPULATION,
    read: Callable[[Any], TunedPrompt] = load_prompt,
) -> Initializer:
    """The initializer that a setting names.

    Args:
      spec: an initializer; "uniform", "sampled_vocabulary", "class_labels", "text: ...", or the
        path of a prompt file; None for class labels where the task has verbalizers, else
        sampled vocabulary.
      check, read: of a prompt file's prompt; see `from_file`.
      population_size: of rows that are sampled; see `sampled_vocabulary`.

    Raises:
      ValueError: class labels without verbalizers, or words without a vocabulary.
      FileNotFoundError: a path that is not there.
    """
    if spec is None:
        spec = "class_labels" if verbalizers and vocabulary else "sampled_vocabulary"
    if callable(spec):
        return spec
    if nearest.parse(spec) is not None:
        raise ValueError(
            f"{spelled('prompt_init')} {spec!r} is looked for by `prompt-tuning train` alone: "
            "start at the prompt's own path here."
        )
    if spec == "uniform":
        return uniform()
    if spec == "sampled_vocabulary":
        return sampled_vocabulary(embeddings, population_size)
    if spec == "class_labels" or text_of(spec) is not None:
        if vocabulary is None:
            raise ValueError(f"Prompt initialisation {spec!r} needs a model with a vocabulary.")
        if spec == "class_labels" and not verbalizers:
            raise ValueError("Prompt initialisation 'class_labels' needs a task with verbalizers.")
        sampled = sampled_vocabulary(embeddings, population_size)
        if spec == "class_labels":
            return class_labels(embeddings, vocabulary, verbalizers, sampled)
        return text(embeddings, vocabulary, text_of(spec), sampled)
    try:
        return from_file(spec, check, read)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{spelled('prompt_init')} {str(spec)!r} is none of {', '.join(NAMED)}, 'text: ...', "
            "and no prompt: "
            f"{error}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{spelled('prompt_init')} {str(spec)!r}: {error}") from error


def names_a_file(spec: Any) -> bool:
    """Whether a setting is the path of a prompt."""
    words = spec is None or callable(spec) or spec in NAMED or text_of(spec) is not None
    return not words and nearest.parse(spec) is None


def text_of(spec: Any) -> str | None:
    """The words of a setting "text: ..."; None for any other."""
    words = str(spec)
    return words.removeprefix("text:").strip() if words.startswith("text:") else None


def from_file(
    path: str | os.PathLike,
    check: Callable[[TunedPrompt], None] | None = None,
    read: Callable[[Any], TunedPrompt] = load_prompt,
) -> Initializer:
    """The values of a prompt file, ours or the reference's `.npy`.

    Args:
      check: refuses a prompt with a ValueError, such as `FrozenModel.check` one of another model.
      read: how a file is read.

    Raises:
      FileNotFoundError, ValueError: as `load_prompt`; or it has another shape than the prompt.
    """
    prompt = read(path)
    if check is not None:
        check(prompt)
    values = prompt.values

    def initialize(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "P D"]:
        del key
        if values.shape != tuple(shape):
            raise ValueError(
                f"The prompt in {path} is {list(values.shape)}, but {list(shape)} is asked for. "
                f"Set {spelled('prompt_length')} to {values.shape[0]} and use a model of width "
                f"{values.shape[1]}, or start from another prompt."
            )
        return jnp.asarray(values)

    return initialize
