"""New prompts from prompts: averaged, interpolated, or composed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_tuning_jax.tuned_prompt import FINGERPRINT, OF_MODEL, OF_TASK, TunedPrompt

# Facts that are true of the combination where they are true of every part.
COMMON = ("base_model", *OF_MODEL, *OF_TASK)


def average(prompts: Sequence[TunedPrompt], weights: Sequence[float] | None = None) -> TunedPrompt:
    """The weighted mean of prompts of one shape [P, D] and layout; equal weights by default.

    Raises:
      ValueError: no prompts, other shapes, layouts or base models, or weights that sum to 0.
    """
    weights = [1.0] * len(prompts) if weights is None else list(weights)
    if len(weights) != len(prompts):
        raise ValueError(f"Got {len(prompts)} prompts but {len(weights)} weights.")
    if not prompts or not sum(weights):
        raise ValueError("An average needs at least one prompt, and weights that do not sum to 0.")
    facts = _common_facts(prompts)
    shapes = {prompt.shape for prompt in prompts}
    if len(shapes) > 1:
        raise ValueError(f"Only prompts of one shape can be averaged, got {_shapes(prompts)}.")
    shares = np.array(weights, np.float64) / sum(weights)
    values = sum(
        share * prompt.values.astype(np.float64)
        for share, prompt in zip(shares, prompts, strict=True)
    )
    return dataclasses.replace(prompts[0], values=values.astype(np.float32), metadata=facts)


def interpolate(start: TunedPrompt, end: TunedPrompt, at: float) -> TunedPrompt:
    """The prompt on the line through two: `start` at 0, `end` at 1; beyond, it extrapolates."""
    return average([start, end], [1 - at, at])


def compose(prompts: Sequence[TunedPrompt]) -> TunedPrompt:
    """One prompt [P1 + P2 + ..., D] of the rows of all, in order.

    Raises:
      ValueError: no prompts, or other widths, layouts or base models.
    """
    if not prompts:
        raise ValueError("There are no prompts to compose.")
    facts = _common_facts(prompts)
    if len({prompt.shape[1] for prompt in prompts}) > 1:
        raise ValueError(f"Only prompts of one width can be composed, got {_shapes(prompts)}.")
    last = prompts[-1].metadata  # the task's own part says what the whole is for
    facts |= {key: last[key] for key in OF_TASK if key in last}
    values = np.concatenate([one.values for one in prompts])
    return dataclasses.replace(prompts[0], values=values, metadata=facts)


def _common_facts(prompts: Sequence[TunedPrompt]) -> dict[str, Any]:
    for name in ("layout", "visibility"):
        kinds = {getattr(prompt, name) for prompt in prompts}
        if len(kinds) > 1:
            raise ValueError(f"These prompts differ in {name}: {', '.join(sorted(kinds))}.")
    models = {prompt.metadata.get(FINGERPRINT) for prompt in prompts} - {None}
    if len(models) > 1:
        raise ValueError("These prompts were tuned for different models; they cannot be combined.")
    first = prompts[0].metadata
    return {
        key: first[key]
        for key in COMMON
        if key in first and all(prompt.metadata.get(key) == first[key] for prompt in prompts)
    }


def _shapes(prompts: Sequence[TunedPrompt]) -> str:
    return ", ".join(str(list(prompt.shape)) for prompt in prompts)
