"""A prompt as a low-rank change of where it starts (ULPT, Wu et al. 2025, section 3).

    prompt = start + (coefficients @ basis) * scale + shift

The basis is random and frozen: P x r numbers and 2 D train, where the prompt has P x D. With the
coefficients and the shift at 0 the prompt begins exactly at its start.

P prompt length   r rank   D embed
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_tuning_jax.methods.parameterizations.parameterization import Leaves, Sample

TRAINABLE: tuple[str, ...] = ("coefficients", "scale", "shift")
FROZEN: tuple[str, ...] = ("start", "basis")
DEFAULT_SIZE = 64


def start(
    key: jax.Array, prompt_PxD: Float[Array, "P D"], size: int, sample: Sample | None = None
) -> Leaves:
    """Args:
    size: r, the rank.
    """
    del sample
    P, D = prompt_PxD.shape
    return {
        "start": prompt_PxD,
        # A row of r coefficients of size 1 changes each number by about 1.
        "basis": jax.random.normal(key, (size, D)) / jnp.sqrt(size),
        "coefficients": jnp.zeros((P, size)),
        "scale": jnp.ones(D),
        "shift": jnp.zeros(D),
    }


def fold(leaves: Leaves) -> Float[Array, "P D"]:
    change_PxD = jnp.matmul(leaves["coefficients"], leaves["basis"], precision="highest")
    return leaves["start"] + change_PxD * leaves["scale"][None, :] + leaves["shift"][None, :]
