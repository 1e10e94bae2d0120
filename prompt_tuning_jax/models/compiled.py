"""Compiled functions of a model of any family and a batch with T5X's keys, without dropout."""

import functools

import jax

from prompt_tuning_jax.models.family import family_of
from prompt_tuning_jax.optim import weighted_loss


@functools.partial(jax.jit, static_argnames=("config", "layout"))
def logits(config, params, batch, layout):
    """Of each target, [B, L, V]."""
    return family_of(config).apply(config, params, batch, layout)


@functools.partial(jax.jit, static_argnames=("config", "layout", "z_loss"))
def loss(config, params, batch, layout, z_loss):
    """Summed over target tokens."""
    found = family_of(config).apply(config, params, batch, layout)
    targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    return weighted_loss(found, targets, weights, z_loss)
