"""Prefix tuning with keys and values of every layer (P-tuning v2, Liu et al. 2022, section 3.2).

They are learned as they are, without a network that makes them. In an encoder-decoder they stand
in the decoder's self-attention, as PEFT has it, in the encoder's, or in both.
"""

import re

import jax

from prompt_tuning_jax.methods.adapters.method import Options, Shapes
from prompt_tuning_jax.models.adapters import PREFIX_KEY, PREFIX_VALUE
from prompt_tuning_jax.params import FlatParams

TRAINABLE: tuple[str, ...] = (PREFIX_KEY, PREFIX_VALUE)
FROZEN: tuple[str, ...] = ()
RATE = 0.03
OPTIMIZER = "adamw"
STACKS = ("decoder", "encoder", "both")
_KERNEL = re.compile(r"((encoder|decoder)/layers_\d+/(?:self_)?attention/)(key|qkv)/kernel")
# Small beside the keys of tokens: they begin with little to say.
SPREAD = 0.02


def start(key: jax.Array, shapes: Shapes, options: Options) -> FlatParams:
    leaves = {}
    found = [kernel for name in sorted(shapes) if (kernel := _KERNEL.fullmatch(name))]
    stacks = ("encoder", "decoder") if options.stack == "both" else (options.stack,)
    if missing := [stack for stack in stacks if stack not in {kernel[2] for kernel in found}]:
        raise ValueError(f"this network has no {missing[0]} for a prefix.")
    for i, kernel in enumerate(found):
        if kernel[2] in stacks:
            width = shapes[kernel[0]].shape[1] // (3 if kernel[3] == "qkv" else 1)
            values = jax.random.normal(jax.random.fold_in(key, i), (2, options.length, width))
            for name, each in zip(TRAINABLE, SPREAD * values, strict=True):
                leaves[kernel[1] + name] = each
    return leaves
