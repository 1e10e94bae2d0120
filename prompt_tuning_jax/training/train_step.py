"""One step of training: what it computes, and what it leaves as it is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.methods import distillation, wayward
from prompt_tuning_jax.methods.assemble import assembled
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.family import NetworkConfig, family_of
from prompt_tuning_jax.optim import weighted_loss
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.microbatches import in_microbatches
from prompt_tuning_jax.training.private.gradients import noised, private_gradients
from prompt_tuning_jax.training.retrieval.loss import retrieval_gradients
from prompt_tuning_jax.training.step_types import (
    DeviceBatch,
    Gradients,
    Key,
    Metrics,
    Params,
    StepFunction,
    TrainStep,
    Updated,
)


def network_config(config: TrainConfig, model: FrozenModel) -> NetworkConfig:
    """The model's, with what a run changes of it."""
    names = "remat_policy", "attention", "attention_chunk"
    asked = {name: getattr(config, name) for name in names}
    return dataclasses.replace(
        model.config,
        dropout_rate=config.dropout,
        prompt_visibility=config.prompt_visibility,
        **{name: value for name, value in asked.items() if value is not None},
    )


def make_train_step(
    config: TrainConfig, model: FrozenModel, optimizer: optax.GradientTransformation
) -> TrainStep:
    """The compiled step, from (trainable, opt_state, frozen, batch, dropout key).

    Returns (trainable, opt_state, metrics); the first two are updated in place.
    """
    step = functools.partial(step_function(config, model), optimizer)
    return jax.jit(step, donate_argnums=(0, 1))


def loss_gradients(config: TrainConfig, model: FrozenModel) -> Gradients:
    """Of the loss, with respect to what trains; from (trainable, frozen, batch, dropout key)."""
    network = network_config(config, model)
    layout, of_loss = config.prompt_layout, (config.z_loss, config.label_smoothing)
    apply, parts = family_of(network).apply, config.microbatches or 1

    def loss_fn(
        trainable: Params, frozen: Params, batch: DeviceBatch, key: Key | None
    ) -> tuple[jax.Array, jax.Array]:
        """The loss summed over target tokens, and the sum of their weights."""
        params = assembled(trainable, frozen)
        # A private step takes the rows one by one, and where each is follows from the batch.
        with sharding.active(model.mesh, split_rows=not config.is_private):
            logits = apply(network, params, batch, layout, key)
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        tokens = weights.sum()
        total = weighted_loss(logits, targets, weights, *of_loss)
        if (taught := distillation.taught_by(params)) is not None:
            with sharding.active(model.mesh, split_rows=not config.is_private):
                wanted = apply(network, taught, batch, layout)
            apart = distillation.divergence(wanted, logits)
            total += config.teacher_weight * jnp.sum(apart * weights)
        if config.wayward_text is not None:  # once for each update, whatever that is divided by
            share = tokens if config.loss_normalization == "mean" else 1 / parts
            total += config.wayward_weight * wayward.distance(params) * share
        return total, tokens

    gradients = jax.value_and_grad(loss_fn, has_aux=True)
    if config.is_private:
        return private_gradients(gradients, config, sharding.batch_parts_of(model.mesh))
    return in_microbatches(gradients, parts)


def step_function(config: TrainConfig, model: FrozenModel) -> StepFunction:
    """The step, from (optimizer, trainable, opt_state, frozen, batch, dropout key), to compile.

    A step whose loss, gradient or update is not finite changes nothing.
    """
    gradients = (retrieval_gradients if config.retrieves else loss_gradients)(config, model)

    def step(
        optimizer: optax.GradientTransformation,
        trainable: Params,
        opt_state: optax.OptState,
        frozen: Params,
        batch: DeviceBatch,
        key: Key | None,
    ) -> Updated:
        of_dropout = key if config.dropout else None
        (total, tokens), grads = gradients(trainable, frozen, batch, of_dropout)
        if config.is_private:
            grads = noised(grads, config, key)
        if config.loss_normalization == "mean":
            grads = jax.tree.map(lambda g: g / tokens, grads)
        # Whoever forbids that dtypes are promoted silently means us, not optax, whose Adam does it.
        with jax.numpy_dtype_promotion("standard"):
            updates, new_state = optimizer.update(grads, opt_state, trainable)
        updated = optax.apply_updates(trainable, updates)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(jnp.stack([total, norm, optax.global_norm(updates)])).all()
        keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
        loss = total / jnp.maximum(tokens, 1)  # a private sample may be empty
        metrics = Metrics(loss=loss, gradient_norm=norm, finite=finite)
        kept = keep(updated, trainable), keep(new_state, opt_state)
        return *sharding.constrain(model.mesh, model.config, kept), metrics

    return step
