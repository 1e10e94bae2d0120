"""Wayward prompts (Khashabi et al. 2022, section 3.2): a prompt that solves its task near a text.

To the loss comes `weight` times the squared distance between the prompt and the embedded text, the
mean of its P rows. The text's rows stand, frozen, in a leaf beside the prompt.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from prompt_tuning_jax.initializers import Embeddings, Vocabulary
from prompt_tuning_jax.params import PROMPT_FOLDER, prompt_of

NAME = f"{PROMPT_FOLDER}wayward"


def rows_of(
    text: str, embeddings: Embeddings, vocabulary: Vocabulary, length: int
) -> Float[Array, "P D"]:
    """The embedded text, again and again where the prompt is longer, and cut where it is shorter.

    Raises:
      ValueError: the text has no tokens.
    """
    ids = vocabulary.encode(text)
    if not ids:
        raise ValueError(f"the text {text!r} has no tokens.")
    return jnp.asarray(embeddings[np.resize(np.array(ids), length)], jnp.float32)


def distance(params: Mapping[str, Any]) -> Float[Array, ""] | float:
    """The mean of the squared distances of the prompt's rows and the text's; 0 without a text.

    Args:
      params: nested, with the prompt itself in them.
    """
    stack, folder, leaf = NAME.split("/")
    target_PxD = params.get(stack, {}).get(folder, {}).get(leaf)
    if target_PxD is None:
        return 0.0
    return jnp.mean(jnp.sum(jnp.square(prompt_of(params) - target_PxD), axis=1))
