"""LoRA (Hu et al. 2022, section 4.1): beside x W stands x A B * alpha / r, with A and B thin.

A begins at random and B at zero, so that the network begins as it is. With `rslora` the scale is
alpha / sqrt(r), whose size does not depend on r (Kalajdzievski 2023).
"""

import jax
import jax.numpy as jnp

from prompt_tuning_jax.methods.adapters.method import Options, Shapes, kernels
from prompt_tuning_jax.models.adapters import LORA_A, LORA_B, LORA_SCALE
from prompt_tuning_jax.params import FlatParams

TRAINABLE: tuple[str, ...] = ("kernel" + LORA_A, "kernel" + LORA_B)
FROZEN: tuple[str, ...] = ("kernel" + LORA_SCALE,)
RATE = 0.001
OPTIMIZER = "adamw"
# The paper's, and PEFT's: queries and values, or, where these are one product with the keys, that.
USUAL, JOINED = ("query", "value"), ("qkv",)


def start(key: jax.Array, shapes: Shapes, options: Options) -> FlatParams:
    rank = options.rank
    scale = options.alpha / (rank**0.5 if options.rslora else rank)
    leaves = {}
    for i, (name, (inputs, outputs)) in enumerate(_changed(shapes, options).items()):
        bound = inputs**-0.5  # PEFT's
        a = jax.random.uniform(
            jax.random.fold_in(key, i), (inputs, rank), minval=-bound, maxval=bound
        )
        leaves[name + LORA_A] = a
        leaves[name + LORA_B] = jnp.zeros((rank, outputs))
        leaves[name + LORA_SCALE] = jnp.float32(scale)
    return leaves


def _changed(shapes: Shapes, options: Options) -> dict[str, tuple[int, int]]:
    if options.targets is not None:
        return kernels(shapes, options.targets)
    is_joined = any(name.endswith("/qkv/kernel") for name in shapes)
    return kernels(shapes, JOINED if is_joined else USUAL)
