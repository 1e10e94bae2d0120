"""A prompt's rows as mixtures of frozen vocabulary vectors (SuperPos-Prompt, SadraeiJavaeri et al.
2024, section 3).

    prompt = mixture @ vectors

The first P vectors are the prompt's start, the others are sampled from the vocabulary; each row
begins as its own start alone.

P prompt length   m vectors   D embed
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.methods.parameterizations.parameterization import Leaves, Sample

TRAINABLE: tuple[str, ...] = ("mixture",)
FROZEN: tuple[str, ...] = ("vectors",)
DEFAULT_SIZE = 128


def start(
    key: jax.Array, prompt_PxD: Float[Array, "P D"], size: int, sample: Sample | None = None
) -> Leaves:
    """Args:
      size: m, the vectors that are mixed.
      sample: from the vocabulary.

    Raises:
      ValueError: fewer vectors than the prompt has rows.
    """
    P, D = prompt_PxD.shape
    if size < P:
        raise ValueError(
            f"{spelled('parameterization_size')} is the number of vectors that are mixed, at least "
            f"as many as the prompt has rows ({P}), not {size}."
        )
    vectors = [prompt_PxD]
    if size > P:
        if sample is None:
            raise ValueError("A superposition is made of the vocabulary's vectors: give `sample`.")
        vectors.append(sample(key, (size - P, D)))
    return {"vectors": jnp.concatenate(vectors), "mixture": jnp.eye(P, size)}


def fold(leaves: Leaves) -> Float[Array, "P D"]:
    return jnp.matmul(leaves["mixture"], leaves["vectors"], precision="highest")
