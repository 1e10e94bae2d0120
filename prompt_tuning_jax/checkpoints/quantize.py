"""Frozen weights as int8, with a float32 scale for every output channel.

    model = pt.load_model("checkpoints/t5-v1_1-xl", dtype="int8")

    encoder/layers_0/mlp/wo/kernel  float32 [F, D]  ->  .../kernel        int8    [F, D]
                                                        .../kernel_scale  float32 [1, D]
    token_embedder/embedding        float32 [V, D]  ->  .../embedding        int8    [V, D]
                                                        .../embedding_scale  float32 [V, 1]

A weight is its int8 values times the scale; it is wrong by at most half a scale. Norms and
relative-position biases, which are small, stay as they are. Only weights are int8:
`models.t5.layers` multiplies in the activations' dtype, so gradients reach the prompt as they do
otherwise.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int8

from prompt_tuning_jax.checkpoints import fingerprint
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.models.products import SCALE

_LARGEST = 127


class Quantizer:
    """Quantises weights one by one, as they are read, and remembers which model they make."""

    def __init__(self):
        self._lines: dict[str, str] = {}

    def __call__(self, name: str, weight: Any) -> dict[str, Any]:
        """What stands for a weight with a flat T5X name: two arrays, or itself if it is small."""
        self.remember(name, weight)
        axes = _summed_axes(name, weight.ndim)
        if axes is None:
            return {name: weight}
        values, scale = quantize(weight, axes)
        return {name: values, name + SCALE: scale}

    def remember(self, name: str, weight: Any) -> None:
        """Counts a weight that stays as it is."""
        self._lines[name] = fingerprint.line(name, weight)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the original weights: a prompt fits its model in every dtype."""
        return fingerprint.of_lines(self._lines)


def quantized_shapes(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes of flat weights -> those of what `Quantizer` makes of them."""
    found: dict[str, Any] = {}
    for name, x in shapes.items():
        axes = _summed_axes(name, len(x.shape))
        if axes is None:
            found[name] = x
        else:
            found[name], found[name + SCALE] = jax.eval_shape(
                functools.partial(quantize, axes=axes), x
            )
    return found


def _summed_axes(name: str, ndim: int) -> tuple[int, ...] | None:
    """The axes that share a scale, which a product with the weight sums over; None: not quantised.

    Scanned layers stand on axis 1 and have scales of their own, see `models.t5.scan`.
    """
    if name.endswith("token_embedder/embedding"):
        return (1,)
    if not name.endswith("/kernel"):
        return None
    return (0, 2) if ndim == 4 and name.endswith("attention/out/kernel") else (0,)


@functools.partial(jax.jit, static_argnames="axes")
def quantize(
    weight: Float[Array, "..."], axes: tuple[int, ...]
) -> tuple[Int8[Array, "..."], Float[Array, "..."]]:
    """(values, scale), of which the product is `weight` to half a scale; `axes` share a scale.

    The scale has the weight's rank, with size 1 at `axes`.
    """
    weight = weight.astype(jnp.float32)
    largest = jnp.max(jnp.abs(weight), axis=axes, keepdims=True)
    scale = jnp.where(largest > 0, largest / _LARGEST, 1.0)
    return jnp.round(weight / scale).astype(jnp.int8), scale


def dequantize(values: Array, scale: Array | None) -> Array:
    """The weight in float32; as it is where there is no scale."""
    return values if scale is None else values.astype(jnp.float32) * scale


def activation_dtype() -> Any:
    """Of a model with int8 weights: bfloat16 where it is fast, float32 on a CPU."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def is_quantized(params: Mapping[str, Any]) -> bool:
    """Whether some weight is int8; `params` are nested or flat."""
    return any(getattr(x, "dtype", None) == jnp.int8 for x in flatten_dict(params).values())


def check_float(params: Mapping[str, Any]) -> None:
    """ValueError where weights are int8 and therefore cannot be saved as a model."""
    if is_quantized(params):
        raise ValueError(
            "int8 weights are for use only and are not saved: load the model as float32 or "
            f"bfloat16 ({spelled('model_dtype')}) and save that."
        )
