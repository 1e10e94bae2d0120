"""What goes into a training step and what comes out of it, by name."""

from collections.abc import Callable, Mapping
from typing import TypedDict

import jax
import optax

Params = dict[str, jax.Array]
"""Name -> parameter: of those that train, or of the frozen ones; or name -> gradient."""
DeviceBatch = Mapping[str, jax.Array]
"""A `data.encoding.Batch` on the devices."""
Key = jax.Array
"""A key of `jax.random`."""


class Metrics(TypedDict):
    """Of one step, each a scalar on the device, or [N] of N runs.

    Attributes:
      loss: the mean over target tokens.
      gradient_norm: over all trainable parameters.
      finite: whether the loss, every gradient and every update is.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    finite: jax.Array


Summed = tuple[tuple[jax.Array, jax.Array], Params]
"""((loss summed over target tokens, their summed weights), gradients of the former)."""
Gradients = Callable[[Params, Params, DeviceBatch, Key | None], Summed]
"""From (trainable, frozen, batch, dropout key)."""
Updated = tuple[Params, optax.OptState, Metrics]
TrainStep = Callable[[Params, optax.OptState, Params, DeviceBatch, Key | None], Updated]
"""From (trainable, optimizer's state, frozen, batch, dropout key)."""
StepFunction = Callable[
    [optax.GradientTransformation, Params, optax.OptState, Params, DeviceBatch, Key | None], Updated
]
"""A `TrainStep` that is also told its optimizer."""
