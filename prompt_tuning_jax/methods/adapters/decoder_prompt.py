"""A prompt before the decoder's embedded targets, alone or beside one at the encoder's input.

It begins as vectors of the vocabulary. Only a T5 has a place for it: a causal model's prompt is
before its targets already.
"""

import jax

from prompt_tuning_jax.methods.adapters.method import Options, Shapes
from prompt_tuning_jax.models.adapters import DECODER_PROMPT
from prompt_tuning_jax.params import FlatParams

TRAINABLE = (DECODER_PROMPT,)
FROZEN = ()
RATE = 0.3
OPTIMIZER = "adafactor"


def start(key: jax.Array, shapes: Shapes, options: Options) -> FlatParams:
    cross = "decoder/layers_0/encoder_decoder_attention/query/kernel"
    if cross not in shapes:
        raise ValueError("only a T5 takes a prompt before its decoder's targets.")
    shape = options.length, shapes[cross].shape[0]
    return {f"decoder/{DECODER_PROMPT}": options.sample(key, shape)}
