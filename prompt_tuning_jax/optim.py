"""What trains and how: rules over parameter names, the paper's optimizer, and T5's loss.

A rule is `(regex, optimizer)`: the optimizer trains the parameters whose names the regex matches,
and what no rule matches is frozen; `params.split_params` divides a model so.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num

from prompt_tuning_jax.params import PROMPT_NAME, FlatParams, label_params

Rule = tuple[str, optax.GradientTransformation]
Rate = float | int | jax.Array


@gin.configurable
def paper_adafactor(
    learning_rate: optax.ScalarOrSchedule = 0.3, start_step: int = 0
) -> optax.GradientTransformation:
    """The paper's optimizer (section 3), equal to the reference implementation step for step.

    Adafactor with a constant learning rate, second-moment decay 0.8, no parameter scaling, update
    clipping 1.0 and weight decay 1e-5 (not scaled by the learning rate). The second moment is
    factored only where both dimensions of a parameter are at least 128, as the reference does.

    Args:
      learning_rate: absolute step size, or a schedule.
      start_step: the global step at which T5X starts counting, 1,100,000 for the LM-adapted T5 1.1
        checkpoints; it makes the second moment forget more slowly from the first step on.
    """
    return optax.adafactor(
        learning_rate,
        decay_rate=0.8,
        decay_offset=-start_step,
        multiply_by_parameter_scale=False,
        clipping_threshold=1.0,
        momentum=None,
        weight_decay_rate=1e-5,
        eps=1e-30,
    )


@gin.configurable
def model_tuning_adafactor(
    learning_rate: optax.ScalarOrSchedule = 0.001,
) -> optax.GradientTransformation:
    """Adafactor with its own defaults, as the paper tunes whole models (section 3.1)."""
    return optax.adafactor(learning_rate)


@gin.configurable
def adam(
    learning_rate: optax.ScalarOrSchedule, b1: float = 0.9, b2: float = 0.99
) -> optax.GradientTransformation:
    """Adam; gin names it `@adam()`."""
    return optax.adam(learning_rate, b1=b1, b2=b2)


@gin.configurable
def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019); gin names it `@adamw()`."""
    return optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay)


# What a setting names. Those of a prompt; a whole model's Adafactor has its own defaults.
OPTIMIZERS = {"adafactor": paper_adafactor, "adamw": adamw}
SCHEDULES = ("constant", "linear")


@gin.configurable
def linear_decay(
    peak: Rate, steps: Rate, decay_from: float = 0.6, warmup: int = 0
) -> Callable[[Rate], Rate]:
    """A schedule: linear warm-up over `warmup` steps, `peak`, then a straight line to 0.

    Args:
      peak: the learning rate between warm-up and decay.
      steps: the step at which the rate reaches 0.
      decay_from: share of `steps` after which the rate starts to fall.
    """

    def rate(step: Rate) -> Rate:
        now, end = jnp.asarray(step, jnp.float32), jnp.asarray(steps, jnp.float32)
        start = jnp.maximum(float(warmup), jnp.floor(end * decay_from))
        falling = (end - now) / jnp.maximum(end - start, 1.0)
        return peak * jnp.clip(jnp.minimum(_risen(now, warmup), falling), 0.0, 1.0)

    return rate


@gin.configurable
def warm_up(peak: Rate, warmup: int) -> Callable[[Rate], Rate]:
    """A schedule: linear warm-up over `warmup` steps, then `peak`."""
    return lambda step: peak * _risen(jnp.asarray(step, jnp.float32), warmup)


def _risen(step: jax.Array, warmup: int) -> jax.Array:
    """The share of the learning rate that a warm-up has reached."""
    return jnp.minimum(step / warmup, 1.0) if warmup else jnp.ones_like(step)


def scheduled(rate: Rate, steps: Rate, schedule: str = "constant", warmup: int = 0) -> Any:
    """The learning rate of a run of `steps`: a number, or a function of the step.

    Args:
      rate, steps: may be traced.
      schedule: one of `SCHEDULES`.
    """
    if schedule == "linear":
        return linear_decay(rate, steps, decay_from=0.0, warmup=warmup)
    return warm_up(rate, warmup) if warmup else rate


def prompt_rules(
    learning_rate: Any = 0.3,
    start_step: int = 0,
    names: Sequence[str] = (PROMPT_NAME,),
    optimizer: Callable[..., optax.GradientTransformation] | None = None,
) -> list[Rule]:
    """Prompt tuning: only the prompt moves.

    Args:
      names: of what trains of it.
      optimizer: made of the learning rate; None for the paper's.
    """
    made = optimizer(learning_rate) if optimizer else paper_adafactor(learning_rate, start_step)
    return [("|".join(map(re.escape, names)), made)]


def model_rules(learning_rate: Any = 0.001) -> list[Rule]:
    """Model tuning: everything moves."""
    return [(".*", model_tuning_adafactor(learning_rate))]


def make_optimizer(trainable: FlatParams, rules: Sequence[Rule]) -> optax.GradientTransformation:
    """One transformation over the flat trainable parameters, each under its own rule."""
    labels = label_params(list(trainable), rules)
    return optax.partition({str(i): rule[1] for i, rule in enumerate(rules)}, labels)


class Averaged(NamedTuple):
    """The state of an optimizer whose steps are averaged.

    Attributes:
      average: of the parameters after each step.
      steps: how many.
    """

    inner: optax.OptState
    average: FlatParams
    steps: jax.Array


def averaging(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """The same steps, with an exponential moving average of the parameters in the state.

    The first steps count less of what was before them, min(decay, (1 + t) / (10 + t)), so that the
    start is soon forgotten.
    """

    def init(params: FlatParams) -> Averaged:
        return Averaged(optimizer.init(params), params, jnp.zeros((), jnp.int32))

    def update(grads: Any, state: Averaged, params: Any = None) -> tuple[Any, Averaged]:
        updates, inner = optimizer.update(grads, state.inner, params)
        steps = state.steps.astype(jnp.float32)
        kept = jnp.minimum(decay, (1 + steps) / (10 + steps))
        average = jax.tree.map(
            lambda old, new, change: kept * old + (1 - kept) * (new + change),
            state.average,
            params,
            updates,
        )
        return updates, Averaged(inner, average, state.steps + 1)

    return optax.GradientTransformation(init, update)


def averages(state: optax.OptState) -> FlatParams | None:
    """What a state holds the average of; None where steps are not averaged."""
    return state.average if isinstance(state, Averaged) else None


def token_cross_entropy(
    logits: Float[Array, "B L V"],
    targets: Int[Array, "B L"],
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Array, "B L"]:
    """Cross-entropy of each target token in nats, plus `z_loss * log(Z)**2`.

    The z-loss keeps the softmax normaliser Z near 1 (Mesh TensorFlow; T5X runs it at 1e-4).

    Args:
      label_smoothing: of each target's probability, the share that all other tokens get; the
        least possible cross-entropy is subtracted, as T5X has it.
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # Padding may have an id past the table: whatever is taken for it has the weight 0.
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="clip")[..., 0]
    losses = log_z - target_logits + z_loss * jnp.square(log_z)
    if not label_smoothing:
        return losses
    others = logits.shape[-1] - 1
    low, high = label_smoothing / others, 1 - label_smoothing
    least = -(high * math.log(high) + others * low * math.log(low + 1e-20))
    of_others = others * target_logits - (logits.sum(axis=-1) - target_logits)
    return losses + low * of_others - least


def weighted_loss(
    logits: Float[Array, "B L V"],
    targets: Int[Array, "B L"],
    weights: Num[Array, "B L"],
    z_loss: float = 1e-4,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Loss summed over target tokens, each times its weight, as T5X sums it."""
    losses_BxL = token_cross_entropy(logits, targets, z_loss, label_smoothing)
    return jnp.sum(losses_BxL * weights.astype(losses_BxL.dtype))
