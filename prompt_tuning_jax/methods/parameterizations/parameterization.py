"""What a parameterisation provides: leaves in a prompt's place, and the prompt that they make."""

from collections.abc import Mapping
from typing import Protocol

import jax
from jaxtyping import Array, Float

from prompt_tuning_jax.initializers import Initializer

Leaves = Mapping[str, Array]
"""Name -> array."""
Sample = Initializer
"""Rows [n, D] of the vocabulary's table, from (key, (n, D))."""


class Parameterization(Protocol):
    """A module with these names.

    Attributes:
      TRAINABLE, FROZEN: the names of its leaves; the latter stay as they start.
      DEFAULT_SIZE: its `parameterization_size`.
    """

    TRAINABLE: tuple[str, ...]
    FROZEN: tuple[str, ...]
    DEFAULT_SIZE: int

    def start(
        self, key: jax.Array, prompt_PxD: Float[Array, "P D"], size: int, sample: Sample | None
    ) -> Leaves:
        """The leaves of a prompt that begins at `prompt`, float32.

        Raises:
          ValueError: the size is not one for this prompt.
        """

    def fold(self, leaves: Leaves) -> Float[Array, "P D"]:
        """The prompt, which may be traced."""
