"""Rotary positions: queries and keys turned, pair of features by pair, by how far along they are.

B batch   H heads   L positions   K head dim
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.models.causal.config import Rotary


def turning(rotary: Rotary | None, head_dim: int) -> Float[np.ndarray, "2 half"]:
    """How pairs turn: by so many radians a position, and what they are then multiplied by.

    Where nothing turns, by none, and by 1.
    """
    if rotary is None:
        return np.stack([np.zeros(head_dim // 2), np.ones(head_dim // 2)]).astype(np.float32)
    radians = _frequencies(rotary, head_dim).astype(np.float32)
    return np.stack([radians, np.full_like(radians, rotary.scale)])


def _frequencies(rotary: Rotary, head_dim: int) -> Float[np.ndarray, " half"]:
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = (1.0 / np.float32(rotary.theta) ** exponents).astype(np.float32)
    if rotary.kind in ("llama3", "yarn"):
        # 1 where a pair turns as fast as ever, 0 where it is slowed by the whole factor.
        kept = _by_speed(rotary, plain) if rotary.kind == "llama3" else _by_number(rotary, head_dim)
        return kept * plain + (1 - kept) * plain / rotary.factor
    return plain if rotary.kind == "dynamic" else plain / np.float32(rotary.factor)


def _by_speed(rotary: Rotary, plain_half: Float[np.ndarray, " half"]) -> Float[np.ndarray, " half"]:
    turns = rotary.original_length * plain_half / (2 * math.pi)
    return np.clip((turns - rotary.low) / (rotary.high - rotary.low), 0, 1)


def _by_number(rotary: Rotary, head_dim: int) -> Float[np.ndarray, " half"]:
    def pair(turns: float) -> float:
        """Which pair turns so often in the original length."""
        ratio = rotary.original_length / (turns * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(rotary.theta))

    first, last = pair(rotary.high), pair(rotary.low)
    if rotary.whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    last += 0.001 if first == last else 0
    slowed = (np.arange(head_dim // 2, dtype=np.float32) - first) / (last - first)
    return 1 - np.clip(slowed, 0, 1)


def turned(
    x_BxHxLxK: Float[Array, "B H L K"],
    positions_BxL: Int[Array, "#B L"],
    turning_2xhalf: Float[Array, "2 half"],
) -> Float[Array, "B H L K"]:
    """x at its positions: features i and i + K/2 are a pair."""
    radians, scale = turning_2xhalf[0][None, None], turning_2xhalf[1][None, None]
    angles_BxLxhalf = positions_BxL[:, :, None].astype(jnp.float32) * radians
    cos = (jnp.cos(angles_BxLxhalf) * scale)[:, None]
    sin = (jnp.sin(angles_BxLxhalf) * scale)[:, None]
    first, second = jnp.split(x_BxHxLxK.astype(jnp.float32), 2, axis=-1)
    both = first * cos - second * sin, second * cos + first * sin
    return jnp.concatenate(both, axis=-1).astype(x_BxHxLxK.dtype)
