"""The gradient of a private step: a sum of clipped gradients of single examples, and noise.

    sum_i g_i * min(1, C / |g_i|) + N(0, (sigma C)^2)

(Abadi et al. 2016, algorithm 1, without the division by the batch's size, which the optimizers do
not see.) The norm is over all that trains.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from prompt_tuning_jax.methods.parameterizations import choice as parameterizations
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.microbatches import in_microbatches
from prompt_tuning_jax.training.private.sampling import rows_at_once
from prompt_tuning_jax.training.step_types import DeviceBatch, Gradients, Key, Params, Summed

# Which of a step's random numbers are noise: no row or part of a batch has this number.
NOISE = 2**31


def clipped_sum(function: Gradients, clip_norm: float, fixed: Sequence[str] = ()) -> Gradients:
    """`function`, a gradient, of every row alone: each scaled to a norm of at most `clip_norm`.

    A row whose loss or gradient is not finite counts for nothing: it, too, may change the sum by no
    more than that. Each row has a dropout key of its own.

    Args:
      fixed: parts of a prompt that no step changes, whose gradient is 0.
    """

    def one(
        trainable: Params, frozen: Params, row: DeviceBatch, key: Key | None
    ) -> tuple[tuple[jax.Array, jax.Array], Params]:
        (loss, tokens), grads = function(trainable, frozen, row, key)
        grads = {name: jnp.zeros_like(g) if name in fixed else g for name, g in grads.items()}
        norm = optax.global_norm(grads)
        counts = jnp.isfinite(loss) & jnp.isfinite(norm)
        scale = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
        grads = jax.tree.map(lambda g: jnp.where(counts, g * scale, 0.0), grads)
        return (jnp.where(counts, loss, 0.0), jnp.where(counts, tokens, 0.0)), grads

    def summed(trainable: Params, frozen: Params, batch: DeviceBatch, key: Key | None) -> Summed:
        rows = {name: x[:, None] for name, x in batch.items()}
        count = len(batch["decoder_loss_weights"])
        keys = None if key is None else jax.random.split(key, count)
        each = jax.vmap(one, (None, None, 0, None if key is None else 0))
        return jax.tree.map(lambda x: x.sum(axis=0), each(trainable, frozen, rows, keys))

    return summed


def private_gradients(function: Gradients, config: TrainConfig, parts: int) -> Gradients:
    """The clipped sum over a batch of as many rows as its sample took, some at a time.

    Args:
      parts: of a batch's rows, on devices.
    """
    fixed = parameterizations.frozen_names(config.prompt_parameterization)
    clipped = clipped_sum(function, config.dp_clip_norm, fixed)
    at_once = rows_at_once(config, parts)

    def summed(trainable: Params, frozen: Params, batch: DeviceBatch, key: Key | None) -> Summed:
        passes = len(batch["decoder_loss_weights"]) // at_once
        return in_microbatches(clipped, passes)(trainable, frozen, batch, key)

    return summed


def noised(grads: Params, config: TrainConfig, key: Key) -> Params:
    """The gradients with the step's noise.

    Args:
      key: of the step, which nobody may know.
    """
    scale = config.dp_noise_multiplier * config.dp_clip_norm
    keys = jax.random.split(jax.random.fold_in(key, NOISE), len(grads))
    return {
        name: grads[name] + scale * jax.random.normal(each, grads[name].shape, grads[name].dtype)
        for name, each in zip(sorted(grads), keys, strict=True)
    }
