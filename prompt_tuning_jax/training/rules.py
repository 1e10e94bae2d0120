"""Which parameters train, and by which optimizer: what a run's settings say of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from prompt_tuning_jax import optim
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.methods.adapters import choice as adapters
from prompt_tuning_jax.methods.parameterizations import choice as parameterizations
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.step_types import Params

PROMPT_RATE, MODEL_RATE = 0.3, 0.001


class Pace(NamedTuple):
    """What runs that train together differ in: numbers, or arrays [N], or traced."""

    rate: Any
    steps: Any


def pace_of(config: TrainConfig) -> Pace:
    usual = PROMPT_RATE if config.input_rows else MODEL_RATE
    if config.adapter is not None:
        usual = adapters.METHODS[config.adapter].RATE
    rate = usual if config.learning_rate is None else config.learning_rate
    return Pace(rate, config.train_steps)


def trainable_rules(config: TrainConfig, pace: Pace | None = None) -> Sequence[optim.Rule]:
    """The rules asked for, or those of the run's method; what stays of a prompt last.

    Args:
      pace: None for the run's own.
    """
    rules = list(_rules(config, pace or pace_of(config)))
    if fixed := parameterizations.frozen_names(config.prompt_parameterization):
        rules += optim.prompt_rules(names=fixed, optimizer=lambda _: optax.set_to_zero())
    return rules


def _rules(config: TrainConfig, pace: Pace) -> Sequence[optim.Rule]:
    if config.trainable is not None:
        return config.trainable
    rate = optim.scheduled(*pace, config.schedule, config.warmup_steps)
    rules = []
    if config.adapter is not None:
        made = optim.OPTIMIZERS[config.optimizer or adapters.METHODS[config.adapter].OPTIMIZER]
        rules.append((adapters.trainable_pattern(config.adapter), made(rate)))
    if config.input_rows:
        names = parameterizations.trainable_names(config.prompt_parameterization)
        made = optim.OPTIMIZERS[config.optimizer or "adafactor"]
        rules += optim.prompt_rules(rate, names=names, optimizer=made)
    if rules:
        return rules
    if config.optimizer in (None, "adafactor"):
        return optim.model_rules(rate)
    return [(".*", optim.OPTIMIZERS[config.optimizer](rate))]


def make_optimizer(
    config: TrainConfig, trainable: Params, pace: Pace | None = None
) -> optax.GradientTransformation:
    """One transformation over all that trains.

    Args:
      pace: None for the run's own.
    """
    optimizer = optim.make_optimizer(trainable, trainable_rules(config, pace))
    if not config.averaging:
        return optimizer
    return optim.averaging(optimizer, config.averaging)


def start_optimizer(
    mesh: Mesh, model: FrozenModel, optimizer: optax.GradientTransformation, trainable: Params
) -> optax.OptState:
    """The optimizer's first state, each part of it where its parameter is."""
    shapes = jax.eval_shape(optimizer.init, trainable)
    places = sharding.param_shardings(mesh, model.config, shapes)
    return jax.jit(optimizer.init, out_shardings=places)(trainable)
