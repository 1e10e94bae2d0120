"""Stacks of layers compiled once: `T5Config.scan_layers`.

    every layer by itself                             one layer, scanned
    encoder/layers_0/mlp/wo/kernel    [F, D]          encoder/encoder/mlp/wo/kernel  [F, layers, D]
    encoder/layers_1/mlp/wo/kernel    [F, D]
    encoder/relpos_bias/rel_embedding [H, R]          encoder/encoder/relpos_bias/rel_embedding
                                                                                     [H, layers, R]

or, with `layer_relpos_bias`, encoder/layers_0/relpos_bias/rel_embedding and so on on the left.

The names, and the axis that `T5Config.scan_axis` is unless it is set, are those of T5X's scalable
T5. Layers that come first instead, [layers, F, D], each lie in one piece: XLA takes them as they
are, where it copies a whole stack of T5X's to have them so (on a TPU all weights, in every step).
What stands outside the layers (the embedding, the final norms, the output layer, a prompt) is the
same in both.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from flax.linen.partitioning import scan_with_axes

from prompt_tuning_jax.models.attention import cudnn
from prompt_tuning_jax.models.t5.config import T5Config

STACKS = ("encoder", "decoder")
T5X_AXIS = 1  # of stacked weights: the layer
BIAS = "relpos_bias/rel_embedding"
BIASES = (BIAS, "side_" + BIAS)  # LongT5 has the second too


def through(
    layers: Sequence[nn.Module],
    step: Callable[[nn.Module, Any, Any], tuple[Any, Any]],
    x: Any,
    *,
    depth: int,
    per_layer: Any = None,
) -> tuple[Any, Any]:
    """Applies `x, out = step(layer, x, of_layer)` for each of `depth` layers.

    Args:
      layers: every layer; or, scanned, one that stands for all and whose weights are stacked.
      per_layer: what `step` gets of each layer as `of_layer`, if anything: a tuple with an entry
        for each layer or, scanned, arrays with a leading layer axis.

    Returns:
      (x after the last layer, each layer's out, in the form of `per_layer`).
    """
    config = layers[0].config
    step = _rematerialised(step, config.remat_policy, scanned=config.scan_layers)
    if config.scan_layers:
        return scan_with_axes(
            step,
            variable_axes={"params": config.scan_axis, "cache": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast if per_layer is None else 0,
            length=depth,
            axis_name="layers",
        )(layers[0], x, per_layer)
    outs = []
    for i, layer in enumerate(layers):
        x, out = step(layer, x, None if per_layer is None else per_layer[i])
        outs.append(out)
    return x, tuple(outs)


def _rematerialised(step: Callable[..., Any], policy: str, scanned: bool) -> Callable[..., Any]:
    """`step`, computed again in the backward pass as `T5Config.remat_policy` says."""
    if policy == "none":
        return step
    policies = jax.checkpoint_policies
    saved = policies.save_from_both_policies(
        policies.checkpoint_dots_with_no_batch_dims,
        policies.save_only_these_names(cudnn.KEPT),
    )
    # `prevent_cse` keeps XLA from finding in the forward pass what is to be computed again. In a
    # scan it could not anyway, as the backward pass is another loop.
    return nn.remat(step, policy=saved if policy == "minimal" else None, prevent_cse=not scanned)


def scanned(config: T5Config, params: Mapping[str, Any]) -> tuple[T5Config, dict[str, Any]]:
    """A T5 in the form that scans fastest: layers first. Its numbers stay the same.

    A config that is of a scanned model already says itself where the layers come.
    """
    if not config.scan_layers:
        config = dataclasses.replace(config, scan_layers=True, scan_axis=0)
    return config, stack_layers(params, config.scan_axis)


def stack_layers(params: Mapping[str, Any], axis: int = T5X_AXIS) -> dict[str, Any]:
    """A T5's parameters in the form that `scan_layers=True` needs; its numbers stay the same.

    Every layer gets a copy of its stack's relative-position bias, unless it has one of its own.

    Args:
      axis: the config's `scan_axis`.

    Raises:
      ValueError: a stack has no layers, or layers that are not alike.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    for stack in STACKS:
        layers = _take_layers(flat, stack)
        names = [name for name in BIASES if f"{stack}/{name}" in flat]
        biases = {name: flat.pop(f"{stack}/{name}") for name in names}
        layers = [biases | layer for layer in layers]
        if not layers or any(x.keys() != layers[0].keys() | {BIAS} for x in layers):
            raise ValueError(
                f"The {stack} cannot be stacked: that takes {stack}/layers_0, layers_1, ... with "
                f"the same parameters each, and {stack}/{BIAS} or one in every layer."
            )
        heads = len(layers[0][BIAS])
        for rest in layers[0]:
            values = [_split_heads(rest, layer[rest], heads) for layer in layers]
            flat[f"{stack}/{stack}/{rest}"] = _stack(values, axis)
    return traverse_util.unflatten_dict(flat, sep="/")


def _take_layers(flat: dict[str, Any], stack: str) -> list[dict[str, Any]]:
    """Takes a stack's layers out of `flat`, first layer first."""
    layers: dict[int, dict[str, Any]] = {}
    for name in list(flat):
        if match := re.fullmatch(rf"{stack}/layers_(\d+)/(.+)", name):
            layers.setdefault(int(match[1]), {})[match[2]] = flat.pop(name)
    return [layers.get(i, {}) for i in range(max(layers, default=-1) + 1)]


def _split_heads(name: str, kernel: Any, heads: int) -> Any:
    """Attention's kernels with heads on an axis of their own, other weights as they are.

    [D, H*K] to [D, H, K], and the outward one's [H*K, D] to [H, K, D]. Scales of int8 kernels
    follow: [1, H*K] to [1, H, K], and the outward one's [1, D] to [1, 1, D].
    """
    if name.endswith("attention/out/kernel"):
        return kernel.reshape(heads, -1, kernel.shape[-1])
    if name.endswith("attention/out/kernel_scale"):
        return kernel.reshape(1, 1, -1)
    if "attention/" in name and name.endswith(("/kernel", "/kernel_scale")):
        return kernel.reshape(kernel.shape[0], heads, -1)
    return kernel


def _stack(values: list[Any], axis: int) -> Any:
    """The layers' weights in one array: numpy's of numpy's, JAX's of JAX's."""
    numpy = jnp if isinstance(values[0], jax.Array) else np
    return numpy.stack(values, axis=axis)
