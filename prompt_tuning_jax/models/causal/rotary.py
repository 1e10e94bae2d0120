"""Rotary positions: queries and keys turned, pair of features by pair, by how far along they are.

B batch   H heads   L positions   K head dim
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.models.causal.config import Rotary


def frequencies(rotary: Rotary | None, head_dim: int) -> Float[np.ndarray, " half"]:
    """By how much each pair turns in a position, [K/2] radians; all 0 where nothing turns."""
    if rotary is None:
        return np.zeros(head_dim // 2, np.float32)
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = (1.0 / np.float32(rotary.theta) ** exponents).astype(np.float32)
    if rotary.kind == "llama3":
        # 1 where a pair turns as fast as ever, 0 where it is slowed by the whole factor.
        turns = rotary.original_length * plain / (2 * math.pi)
        kept = np.clip((turns - rotary.low) / (rotary.high - rotary.low), 0, 1)
        return (kept * plain + (1 - kept) * plain / rotary.factor).astype(np.float32)
    return (plain / np.float32(rotary.factor)).astype(np.float32)


def turned(
    x_BxHxLxK: Float[Array, "B H L K"],
    positions_BxL: Int[Array, "#B L"],
    frequencies_half: Float[Array, " half"],
) -> Float[Array, "B H L K"]:
    """x at its positions: features i and i + K/2 are a pair."""
    angles_BxLxhalf = positions_BxL[:, :, None].astype(jnp.float32) * frequencies_half[None, None]
    cos, sin = jnp.cos(angles_BxLxhalf)[:, None], jnp.sin(angles_BxLxhalf)[:, None]
    first, second = jnp.split(x_BxHxLxK.astype(jnp.float32), 2, axis=-1)
    both = first * cos - second * sin, second * cos + first * sin
    return jnp.concatenate(both, axis=-1).astype(x_BxHxLxK.dtype)
