"""IA3 (Liu et al. 2022, section 3.3): keys, values and the MLP's hidden units, each times a number.

    k = l_k * (x Wk)        v = l_v * (x Wv)        y = (l_ff * hidden) Wo

All begin at one, so that the network begins as it is. Where queries, keys and values are one
product, all of it is scaled, as PEFT has it.
"""

import jax
import jax.numpy as jnp

from prompt_tuning_jax.methods.adapters.method import Options, Shapes, kernels
from prompt_tuning_jax.models.adapters import IN_SCALE, OUT_SCALE
from prompt_tuning_jax.params import FlatParams

TRAINABLE: tuple[str, ...] = ("kernel" + IN_SCALE, "kernel" + OUT_SCALE)
FROZEN: tuple[str, ...] = ()
RATE = 0.03
OPTIMIZER = "adamw"
OUTPUTS, JOINED, INPUTS = ("key", "value"), ("qkv",), ("wo",)


def start(key: jax.Array, shapes: Shapes, options: Options) -> FlatParams:
    del key, options
    is_joined = any(name.endswith("/qkv/kernel") for name in shapes)
    outputs = kernels(shapes, JOINED if is_joined else OUTPUTS)
    leaves = {name + OUT_SCALE: jnp.ones(size) for name, (_, size) in outputs.items()}
    inputs = kernels(shapes, INPUTS)
    return leaves | {name + IN_SCALE: jnp.ones(size) for name, (size, _) in inputs.items()}
