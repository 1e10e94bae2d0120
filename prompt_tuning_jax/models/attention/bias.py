"""What becomes of attention's scores: they may be capped, and a mask and a bias are added.

B batch   L queries   S keys   H heads   O offsets, L + S - 1
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

MASKED = -1e10


class Bias(NamedTuple):
    """The terms of a bias, kept apart: their sum would be B times as large as `distances`.

    Attributes:
      mask: 0 where a query may attend to a key, MASKED where it must not.
      distances: the relative-position bias, or None (cross-attention has none).
      by_offset: the numbers that `distances` is made of, `toeplitz(by_offset, L)`, for the forms
        that make it themselves.
    """

    mask: Float[Array, "#B 1 #L S"]
    distances: Float[Array, "#B H L S"] | None = None
    by_offset: Float[Array, "H O"] | None = None

    @classmethod
    def of(
        cls, mask_Bx1xLxS: Float[Array, "#B 1 #L S"], by_offset_HxO: Float[Array, "H O"]
    ) -> "Bias":
        """With the distances of all queries, of which there are O - S + 1."""
        queries = by_offset_HxO.shape[1] - mask_Bx1xLxS.shape[-1] + 1
        return cls(mask_Bx1xLxS, toeplitz(by_offset_HxO, queries), by_offset_HxO)

    @property
    def seen(self) -> Bool[Array, "#B #L S"]:
        """Where a query may attend to a key, alike in all heads."""
        return self.mask[:, 0] == 0


def capped(x: Float[Array, "*shape"], cap: float | None) -> Float[Array, "*shape"]:
    """x, kept between -cap and cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def mask_bias(mask_BxLxS: Bool[Array, "#B #L S"]) -> Float[Array, "#B 1 #L S"]:
    """0 where attention may look, a very negative number where it must not; alike in all heads."""
    return jnp.where(mask_BxLxS, 0.0, MASKED).astype(jnp.float32)[:, None]


def toeplitz(values_HxO: Float[Array, "H O"], rows: int) -> Float[Array, "1 H rows columns"]:
    """out[0, h, i, j] = values[h, j - i + rows - 1]; by reshaping: a gather is slow on TPUs."""
    H, count = values_HxO.shape
    padded = jnp.pad(values_HxO, ((0, 0), (0, 1)))
    shifted = jnp.tile(padded, (1, rows))[:, : rows * count].reshape(H, rows, count)
    return shifted[None, :, :, rows - 1 :]
