"""One step of training: what it starts from, what it computes, and what it leaves as it is."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from prompt_tuning_jax import initializers, optim, sharding
from prompt_tuning_jax.data import Task
from prompt_tuning_jax.losses import weighted_loss
from prompt_tuning_jax.microbatches import in_microbatches
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.prompt_loading import load_checked_prompt
from prompt_tuning_jax.prompted import apply
from prompt_tuning_jax.quantize import is_quantized
from prompt_tuning_jax.train_config import TrainConfig


def start_params(config: TrainConfig, model: FrozenModel, task: Task) -> Mapping[str, Any]:
    """The model's weights, and the initialised prompt among them."""
    if not config.prompt_length:
        return model.params
    known = model.embeddings, model.vocabulary, task.verbalizers
    check = functools.partial(model.check, allow_mismatch=config.allow_prompt_mismatch)
    initializer = initializers.resolve(config.prompt_init, *known, check)
    shape = (config.prompt_length, model.config.emb_dim)
    prompt = initializer(jax.random.key(config.seed), shape)
    params = model.prompted(sharding.to_host(prompt)).params
    if config.shared_prompt is not None:
        params["encoder"]["prompt"]["shared"] = shared_values(config, model)
    return params


def shared_values(config: TrainConfig, model: FrozenModel) -> jax.Array:
    """The rows [P0, D] of the shared prompt, which must fit the model and the layout."""
    shared = load_checked_prompt(config.shared_prompt, model, config.allow_prompt_mismatch)
    for name in ("layout", "visibility"):
        theirs, ours = getattr(shared, name), getattr(config, f"prompt_{name}")
        if theirs != ours:
            raise ValueError(
                f"SHARED_PROMPT {config.shared_prompt} has the {name} {theirs!r}: set "
                f"PROMPT_{name.upper()} to that, it is {ours!r}."
            )
    return jnp.asarray(shared.values)


def check_prompt_trains(config: TrainConfig, frozen: optim.FlatParams) -> None:
    """Refuses rules that leave the prompt where it starts."""
    if optim.PROMPT_NAME in frozen:
        raise ValueError(
            f"PROMPT_LENGTH is {config.prompt_length}, but no TRAINABLE rule matches "
            f"{optim.PROMPT_NAME!r}: add a rule for it, or set PROMPT_LENGTH=0."
        )


def check_weights_train(
    model: FrozenModel, trainable: optim.FlatParams, frozen: optim.FlatParams
) -> None:
    """Refuses to train weights of a model that is int8 or stacked, which cannot be saved."""
    if set(trainable) == {optim.PROMPT_NAME}:
        return
    for name, in_the_way in (
        ("MODEL_DTYPE=int8", is_quantized(frozen | trainable)),
        ("SCAN_LAYERS", model.config.scan_layers),
    ):
        if in_the_way:
            raise ValueError(
                f"With {name} only the prompt can train: leave that out, or leave PROMPT_LENGTH "
                "above 0 and TRAINABLE unset."
            )


def place(
    mesh: Any, model: FrozenModel, trainable: optim.FlatParams, frozen: optim.FlatParams
) -> tuple[optim.FlatParams, optim.FlatParams]:
    """Both parts on the mesh; what trains is float32, whatever the frozen weights' dtype.

    Trainable arrays are copies, since the step donates them; frozen ones are not.
    """
    masters = {name: jnp.array(x, jnp.float32, copy=True) for name, x in trainable.items()}
    masters = sharding.put(masters, sharding.param_shardings(mesh, model.config, masters))
    return masters, sharding.put(frozen, sharding.param_shardings(mesh, model.config, frozen))


def start_optimizer(
    mesh: Any, model: FrozenModel, optimizer: optax.GradientTransformation, trainable: Any
) -> Any:
    """The optimizer's first state, each part of it where its parameter is."""
    shapes = jax.eval_shape(optimizer.init, trainable)
    places = sharding.param_shardings(mesh, model.config, shapes)
    return jax.jit(optimizer.init, out_shardings=places)(trainable)


def make_train_step(
    config: TrainConfig, model: FrozenModel, optimizer: optax.GradientTransformation
) -> Callable[..., Any]:
    """The compiled step, from (trainable, opt_state, frozen, batch, dropout key).

    Returns (trainable, opt_state, metrics); the first two are updated in place.
    """
    step = functools.partial(step_function(config, model), optimizer)
    return jax.jit(step, donate_argnums=(0, 1))


def step_function(config: TrainConfig, model: FrozenModel) -> Callable[..., Any]:
    """The step, from (optimizer, trainable, opt_state, frozen, batch, dropout key), to compile.

    A step whose loss, gradient or update is not finite changes nothing.
    """
    asked = {"remat_policy": config.remat_policy, "attention_chunk": config.attention_chunk}
    t5 = dataclasses.replace(
        model.config,
        dropout_rate=config.dropout_rate,
        prompt_visibility=config.prompt_visibility,
        **{name: value for name, value in asked.items() if value is not None},
    )
    layout, z_loss = config.prompt_layout, config.z_loss

    def loss_fn(trainable: Any, frozen: Any, batch: Any, key: Any) -> Any:
        """The loss summed over target tokens, and the sum of their weights."""
        with sharding.active(model.mesh):
            logits = apply(t5, optim.merge_params(trainable, frozen), batch, layout, key)
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        return weighted_loss(logits, targets, weights, z_loss), weights.sum()

    gradients = in_microbatches(jax.value_and_grad(loss_fn, has_aux=True), config.microbatches)

    def step(
        optimizer: Any, trainable: Any, opt_state: Any, frozen: Any, batch: Any, key: Any
    ) -> Any:
        key = key if config.dropout_rate else None
        (total, tokens), grads = gradients(trainable, frozen, batch, key)
        if config.loss_normalization == "mean":
            grads = jax.tree.map(lambda g: g / tokens, grads)
        updates, new_state = optimizer.update(grads, opt_state, trainable)
        updated = optax.apply_updates(trainable, updates)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(jnp.stack([total, norm, optax.global_norm(updates)])).all()
        keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
        metrics = {"loss": total / tokens, "gradient_norm": norm, "finite": finite}
        kept = keep(updated, trainable), keep(new_state, opt_state)
        return *sharding.constrain(model.mesh, model.config, kept), metrics

    return step
