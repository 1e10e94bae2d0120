"""What models with an encoder and a decoder have in common."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool


class Read(NamedTuple):
    """What a decoder needs of inputs that were read (`models.family.Family.read`).

    Attributes:
      cross_kv: every layer's cross-attention keys and values, projected from the encoding once.
      attended: the encoder's positions that are not padding.
    """

    cross_kv: Any
    attended: Bool[Array, "B S"]


class EncoderDecoder:
    """Of their configs: answers to what `models.family.NetworkConfig` asks."""

    @property
    def continues_inputs(self) -> bool:
        """Whether targets go on where the input ends: they begin in a decoder of their own."""
        return False

    def visibility_in(self, layouts: Iterable[str], visibility: str) -> str:
        """What a visibility of prompts that stand so is in this model: what it is called."""
        del layouts
        return visibility
