"""What trains and how: rules over parameter names, the paper's optimizer, and T5's loss.

A rule is `(regex, optimizer)`, over the parameters' names: see `params.split_params`.
"""

from collections.abc import Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num

from prompt_tuning_jax.params import PROMPT_NAME, FlatParams, label_params

Rule = tuple[str, optax.GradientTransformation]


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
def linear_decay(peak: float, steps: int, decay_from: float = 0.6, warmup: int = 0) -> Any:
    """A schedule: linear warm-up over `warmup` steps, `peak`, then a straight line to 0.

    Args:
      peak: the learning rate between warm-up and decay.
      steps: the step at which the rate reaches 0.
      decay_from: share of `steps` after which the rate starts to fall.
    """
    start = max(warmup, int(steps * decay_from))
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0 if warmup else peak, peak, max(warmup, 1)),
            optax.linear_schedule(peak, 0.0, max(steps - start, 1)),
        ],
        [start],
    )


def prompt_rules(learning_rate: float = 0.3, start_step: int = 0) -> list[Rule]:
    """Prompt tuning: only the prompt moves."""
    return [(PROMPT_NAME, paper_adafactor(learning_rate, start_step))]


def model_rules(learning_rate: float = 0.001) -> list[Rule]:
    """Model tuning: everything moves."""
    return [(".*", model_tuning_adafactor(learning_rate))]


def make_optimizer(trainable: FlatParams, rules: Sequence[Rule]) -> optax.GradientTransformation:
    """One transformation over the flat trainable parameters, each under its own rule."""
    labels = label_params(list(trainable), rules)
    return optax.partition({str(i): rule[1] for i, rule in enumerate(rules)}, labels)


def token_cross_entropy(
    logits: Float[Array, "B L V"],
    targets: Int[Array, "B L"],
    z_loss: float = 0.0,
) -> Float[Array, "B L"]:
    """Cross-entropy of each target token in nats, plus `z_loss * log(Z)**2`.

    The z-loss keeps the softmax normaliser Z near 1 (Mesh TensorFlow; T5X runs it at 1e-4).
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # Padding may have an id past the table: whatever is taken for it has the weight 0.
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="clip")[..., 0]
    return log_z - target_logits + z_loss * jnp.square(log_z)


def weighted_loss(
    logits: Float[Array, "B L V"],
    targets: Int[Array, "B L"],
    weights: Num[Array, "B L"],
    z_loss: float = 1e-4,
) -> Float[Array, ""]:
    """Loss summed over target tokens, each times its weight, as T5X sums it."""
    losses_BxL = token_cross_entropy(logits, targets, z_loss)
    return jnp.sum(losses_BxL * weights.astype(losses_BxL.dtype))
