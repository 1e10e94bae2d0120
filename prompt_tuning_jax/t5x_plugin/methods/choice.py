"""The method of a run, and what follows of it. A file of `methods/` binds `chosen.method`."""

from collections.abc import Mapping
from typing import Any

import optax

from prompt_tuning_jax import optim
from prompt_tuning_jax.t5x_plugin.methods.method import Arrays, Method, PromptStart
from prompt_tuning_jax.t5x_plugin.restore import Starts


def chosen(method: Method | None = None) -> Method:
    """The method of a run; without one, prompt tuning."""
    return method or Method()


def learning_rate(method: Method) -> float:
    """The usual one."""
    return method.rate


def trainable(
    method: Method,
    adafactor: optax.GradientTransformation,
    adamw: optax.GradientTransformation,
) -> list[optim.Rule]:
    """What trains, by the usual optimizer."""
    made = {"adafactor": adafactor, "adamw": adamw}
    return [(method.pattern, made[method.optimizer])]


def changed(model: Any, method: Method) -> Any:
    """A model of T5X's that trains, and predicts, by the method."""
    return method.changed(model)


def first_values(method: Method, prompt: PromptStart) -> Starts:
    """Where training starts.

    Args:
      prompt: the first values of a prompt of a shape.
    """

    def values(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
        return method.start(shapes, prompt)

    return values
