"""BitFit (Ben Zaken et al. 2022): a bias for every product of the layers, and nothing else.

T5 and most causal models have none: they get them, at zero. To a bias that is there this one is
added, so that the network's own stays what it is. Norms have none to train: what a norm's bias
could add, the biases of the products behind it do.
"""

import jax
import jax.numpy as jnp

from prompt_tuning_jax.methods.adapters.method import Options, Shapes, kernels
from prompt_tuning_jax.models.adapters import BIAS
from prompt_tuning_jax.params import FlatParams

TRAINABLE: tuple[str, ...] = ("kernel" + BIAS,)
FROZEN: tuple[str, ...] = ()
RATE = 0.003
OPTIMIZER = "adamw"


def start(key: jax.Array, shapes: Shapes, options: Options) -> FlatParams:
    del key, options
    return {name + BIAS: jnp.zeros(outputs) for name, (_, outputs) in kernels(shapes).items()}
