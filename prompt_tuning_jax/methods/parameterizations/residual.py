"""A prompt behind a small network with a skip connection (Razdaibiedina et al. 2023, section 3).

    prompt = rows + LayerNorm(relu(rows @ down + down_bias) @ up + up_bias)

All rows share the network, and it is dropped when the prompt is saved. Its norm's gain begins at 0,
so that the prompt begins exactly at its start.

P prompt length   h hidden   D embed
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_tuning_jax.methods.parameterizations.parameterization import Leaves, Sample

TRAINABLE: tuple[str, ...] = ("rows", "down", "down_bias", "up", "up_bias", "gain", "offset")
FROZEN: tuple[str, ...] = ()
DEFAULT_SIZE = 64
_EPSILON = 1e-5


def start(
    key: jax.Array, prompt_PxD: Float[Array, "P D"], size: int, sample: Sample | None = None
) -> Leaves:
    """Args:
    size: h, the hidden units.
    """
    del sample
    D = prompt_PxD.shape[1]
    down, up = jax.random.split(key)
    return {
        "rows": prompt_PxD,
        "down": jax.random.normal(down, (D, size)) / jnp.sqrt(D),
        "down_bias": jnp.zeros(size),
        "up": jax.random.normal(up, (size, D)) / jnp.sqrt(size),
        "up_bias": jnp.zeros(D),
        "gain": jnp.zeros(D),
        "offset": jnp.zeros(D),
    }


def fold(leaves: Leaves) -> Float[Array, "P D"]:
    rows_PxD = leaves["rows"]
    hidden_Pxh = jax.nn.relu(_affine(rows_PxD, leaves["down"], leaves["down_bias"]))
    out_PxD = _affine(hidden_Pxh, leaves["up"], leaves["up_bias"])
    centred_PxD = out_PxD - out_PxD.mean(axis=1, keepdims=True)
    variance_Px1 = jnp.square(centred_PxD).mean(axis=1, keepdims=True)
    normed_PxD = centred_PxD * jax.lax.rsqrt(variance_Px1 + _EPSILON)
    return rows_PxD + normed_PxD * leaves["gain"][None, :] + leaves["offset"][None, :]


def _affine(x: Array, matrix: Array, bias: Array) -> Array:
    return jnp.matmul(x, matrix, precision="highest") + bias[None, :]
