"""From what trains and what is frozen to the parameters that a network takes."""

from typing import Any

from prompt_tuning_jax.methods.parameterizations import choice as parameterizations
from prompt_tuning_jax.params import FlatParams, unflatten


def folded(flat: FlatParams) -> FlatParams:
    """Every leaf that stands for parameters in their place, made those; may be traced."""
    return parameterizations.folded(flat)


def assembled(trainable: FlatParams, frozen: FlatParams) -> dict[str, Any]:
    """The whole model, nested; no frozen array is copied."""
    return unflatten(folded({**frozen, **trainable}))
