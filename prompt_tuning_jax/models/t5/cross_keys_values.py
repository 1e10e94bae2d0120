"""Cross-attention's keys and values, made once for each input and not at every decoding step.

B batch   S joined length   D embed   H heads   K head dim
"""

from collections.abc import Sequence

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from prompt_tuning_jax.models.t5 import scan
from prompt_tuning_jax.models.t5.attention import KeyValue

_Stacked = Float[Array, "layers B H S K"]
# A pair (keys, values) for each decoder layer or, where layers are scanned, one pair of all.
KeyValues = tuple[KeyValue, ...] | tuple[_Stacked, _Stacked]


def project(
    layers: Sequence[nn.Module], encoded_BxSxD: Float[Array, "B S D"], depth: int
) -> KeyValues:
    """The keys and values of every decoder layer (`layers` and `depth` as in `scan.through`)."""

    def step(layer: nn.Module, encoded_BxSxD: jax.Array, _):
        return encoded_BxSxD, layer.encoder_decoder_attention.project(encoded_BxSxD)

    return scan.through(layers, step, encoded_BxSxD, depth=depth)[1]
