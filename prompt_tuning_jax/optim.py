"""What trains and how: rules over parameter names, and the paper's optimizer.

A rule is `(regex, optimizer)`. The first rule whose regex matches a parameter's whole name trains
it; a parameter that no rule matches is frozen. `split_params` divides the model accordingly:

    before   {encoder: {prompt: {prompt}, layers_0: {...}}, decoder: {...}}
    after    trainable  {"encoder/prompt/prompt": ...}
             frozen     {"encoder/layers_0/attention/key/kernel": ..., ...}

Gradients are taken with respect to `trainable` alone, so frozen weights have neither a gradient
nor optimizer state, and may have any dtype.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import Float

Rule = tuple[str, optax.GradientTransformation]
FlatParams = dict[str, Any]

PROMPT_NAME = "encoder/prompt/prompt"
# A prompt that stands before it, frozen unless a rule says otherwise.
SHARED_NAME = "encoder/prompt/shared"
_PROMPT_NAMES = (SHARED_NAME, PROMPT_NAME)


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


def flatten(params: Mapping[str, Any]) -> FlatParams:
    """`{a: {b: x}}` as `{"a/b": x}`."""
    return traverse_util.flatten_dict(params, sep="/")


def unflatten(flat: FlatParams) -> dict[str, Any]:
    """`{"a/b": x}` as `{a: {b: x}}`."""
    return traverse_util.unflatten_dict(flat, sep="/")


def label_params(names: Sequence[str], rules: Sequence[Rule]) -> dict[str, str]:
    """For each trainable name, the index of its rule as a string.

    Raises:
      ValueError: a regex is malformed or matches no parameter, so that a rule with a typo cannot
        silently train nothing.
    """
    labels: dict[str, str] = {}
    for index, (pattern, _) in enumerate(rules):
        try:
            matches = [name for name in names if re.fullmatch(pattern, name)]
        except re.error as error:
            raise ValueError(
                f"TRAINABLE rule {pattern!r} is not a regular expression: {error}."
            ) from error
        if not matches:
            raise ValueError(
                f"TRAINABLE rule {pattern!r} matches no parameter. A rule must match a whole name, "
                f"such as {PROMPT_NAME!r} or 'decoder/.*'. Names here: {', '.join(names[:8])}, ..."
            )
        for name in matches:
            labels.setdefault(name, str(index))
    return labels


def split_params(params: Mapping[str, Any], rules: Sequence[Rule]) -> tuple[FlatParams, FlatParams]:
    """Divides `params` into (trainable, frozen), both flat."""
    flat = flatten(params)
    labels = label_params(list(flat), rules)
    trainable = {name: x for name, x in flat.items() if name in labels}
    frozen = {name: x for name, x in flat.items() if name not in labels}
    return trainable, frozen


def merge_params(trainable: FlatParams, frozen: FlatParams) -> dict[str, Any]:
    """The whole model again; no array is copied."""
    return unflatten({**frozen, **trainable})


def without_prompt(flat: FlatParams) -> FlatParams:
    """The parameters that are the model's own."""
    return {name: x for name, x in flat.items() if name not in _PROMPT_NAMES}


def whole_prompt(flat: FlatParams) -> Float[np.ndarray, "P D"] | None:
    """The prompt, behind the shared one if there is one; None without a prompt."""
    parts = [np.asarray(flat[name]) for name in _PROMPT_NAMES if name in flat]
    return np.concatenate(parts) if parts else None


def make_optimizer(trainable: FlatParams, rules: Sequence[Rule]) -> optax.GradientTransformation:
    """One transformation over the flat trainable parameters, each under its own rule."""
    labels = label_params(list(trainable), rules)
    return optax.partition({str(i): rule[1] for i, rule in enumerate(rules)}, labels)
