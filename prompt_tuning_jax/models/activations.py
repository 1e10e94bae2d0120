"""Activations by the names that configs give them, of all families."""

import functools

from flax import linen as nn

ACTIVATIONS = {
    "gelu": nn.gelu,
    "gelu_exact": functools.partial(nn.gelu, approximate=False),
    "linear": lambda x: x,
    "relu": nn.relu,
    "silu": nn.silu,
}
