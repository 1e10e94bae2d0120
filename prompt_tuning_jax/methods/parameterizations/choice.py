"""The parameterisations by name, and their leaves in the parameter tree.

A prompt `encoder/prompt/prompt` is either there itself ("direct", as the paper has it) or, while it
trains, `encoder/prompt/NAME/LEAF` in its place.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

from prompt_tuning_jax.methods.parameterizations import low_rank, residual, superposition
from prompt_tuning_jax.methods.parameterizations.parameterization import Parameterization, Sample
from prompt_tuning_jax.params import PROMPT_FOLDER, PROMPT_NAME, FlatParams

DIRECT = "direct"
PARAMETERIZATIONS: Mapping[str, Parameterization] = {
    "low_rank": low_rank,
    "residual": residual,
    "superposition": superposition,
}
NAMES = (DIRECT, *PARAMETERIZATIONS)


def start(
    name: str,
    key: jax.Array,
    prompt: Float[Array, "P D"],
    size: int | None = None,
    sample: Sample | None = None,
) -> FlatParams:
    """The prompt's place in the flat parameters, as it begins.

    Args:
      name: one of `NAMES`.
      size: as the parameterisation understands it; None for its own default, with as many as the
        prompt has rows at least.
      sample: from the vocabulary, for those that need it.
    """
    if name == DIRECT:
        return {PROMPT_NAME: prompt}
    kind = PARAMETERIZATIONS[name]
    size = max(kind.DEFAULT_SIZE, prompt.shape[0]) if size is None else size
    leaves = kind.start(key, prompt, size, sample)
    return {_address(name, leaf): value for leaf, value in leaves.items()}


def trainable_names(name: str) -> list[str]:
    """The flat names of what trains of a prompt."""
    if name == DIRECT:
        return [PROMPT_NAME]
    return [_address(name, leaf) for leaf in PARAMETERIZATIONS[name].TRAINABLE]


def frozen_names(name: str) -> list[str]:
    """The flat names of what belongs to a prompt and stays as it starts."""
    if name == DIRECT:
        return []
    return [_address(name, leaf) for leaf in PARAMETERIZATIONS[name].FROZEN]


def folded(flat: FlatParams) -> FlatParams:
    """With the prompt itself in place of its leaves; as it was where there are none."""
    for name, kind in PARAMETERIZATIONS.items():
        leaves: dict[str, Any] = {}
        for leaf in (*kind.TRAINABLE, *kind.FROZEN):
            if (address := _address(name, leaf)) in flat:
                leaves[leaf] = flat[address]
        if leaves:
            addresses = {_address(name, leaf) for leaf in leaves}
            kept = {key: x for key, x in flat.items() if key not in addresses}
            return {**kept, PROMPT_NAME: kind.fold(leaves)}
    return flat


def _address(name: str, leaf: str) -> str:
    return f"{PROMPT_FOLDER}{name}/{leaf}"
