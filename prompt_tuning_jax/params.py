"""The parameter tree: the prompt's address in it, flat names, and what trains apart from the rest.

A rule is `(regex, optimizer)`. The first one whose regex matches a parameter's whole
name trains it; a parameter that no rule matches is frozen. `split_params` divides the model so:

    before   {encoder: {prompt: {prompt}, layers_0: {...}}, decoder: {...}}
    after    trainable  {"encoder/prompt/prompt": ...}
             frozen     {"encoder/layers_0/attention/key/kernel": ..., ...}

Gradients are taken with respect to `trainable` alone, so frozen weights have neither a gradient
nor optimizer state, and may have any dtype.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from flax.linen import partitioning
from jaxtyping import Float

from prompt_tuning_jax.errors import spelled

FlatParams = dict[str, Any]

# Where the prompts of a model are, and nothing else. (`models.t5.decoder_only` has its own place.)
PROMPT_FOLDER = "encoder/prompt/"
PROMPT_NAME = f"{PROMPT_FOLDER}prompt"
# A prompt that stands before it, frozen unless a rule says otherwise.
SHARED_NAME = f"{PROMPT_FOLDER}shared"
# As the reference implementation nests it.
REFERENCE_PROMPT = f"{PROMPT_NAME}/prompt"
_PROMPT_NAMES = (SHARED_NAME, PROMPT_NAME)


def parameter(
    module: nn.Module,
    name: str,
    init: Callable[..., Any],
    shape: tuple[int, ...],
    *dtype: Any,
    axes: tuple[str, ...],
) -> jax.Array:
    """A parameter of `module` with logical axes; where it has no value yet, init(key, shape, ...).

    Flax compares a value's shape with what the initialiser makes, and traces that for it in every
    call: a sixth of the time to trace a step. So one that costs nothing stands in.
    """
    if module.has_variable("params", name):
        init = nn.initializers.zeros
    return partitioning.param_with_axes(name, init, shape, *dtype, axes=axes, module=module)


def flatten(params: Mapping[str, Any]) -> FlatParams:
    """`{a: {b: x}}` as `{"a/b": x}`."""
    return traverse_util.flatten_dict(params, sep="/")


def unflatten(flat: FlatParams) -> dict[str, Any]:
    """`{"a/b": x}` as `{a: {b: x}}`."""
    return traverse_util.unflatten_dict(flat, sep="/")


def label_params(names: Sequence[str], rules: Sequence[tuple[str, Any]]) -> dict[str, str]:
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
                f"{spelled('trainable')}: the rule {pattern!r} is not a regular expression: "
                f"{error}."
            ) from error
        if not matches:
            raise ValueError(
                f"{spelled('trainable')}: the rule {pattern!r} matches no parameter. A rule must "
                "match a whole name, "
                f"such as {PROMPT_NAME!r} or 'decoder/.*'. Names here: {', '.join(names[:8])}, ..."
            )
        for name in matches:
            labels.setdefault(name, str(index))
    return labels


def split_params(
    params: Mapping[str, Any], rules: Sequence[tuple[str, Any]]
) -> tuple[FlatParams, FlatParams]:
    """Divides `params` into (trainable, frozen), both flat."""
    flat = flatten(params)
    labels = label_params(list(flat), rules)
    trainable = {name: x for name, x in flat.items() if name in labels}
    frozen = {name: x for name, x in flat.items() if name not in labels}
    return trainable, frozen


def is_prompt(name: str) -> bool:
    """Whether a parameter is a prompt by its flat name: in any stack, however it is nested."""
    return name.endswith("/prompt")


def with_prompt(params: Mapping[str, Any], values: Any) -> dict[str, Any]:
    """`params` with this prompt and no other; nothing is copied."""
    return _with_folder(params, {_leaf(PROMPT_NAME): values})


def with_shared(params: Mapping[str, Any], values: Any) -> dict[str, Any]:
    """`params` with a prompt that stands before the one in them; nothing is copied."""
    return _with_folder(params, {**_folder(params), _leaf(SHARED_NAME): values})


def prompt_of(params: Mapping[str, Any]) -> Any | None:
    """The prompt inside `params`, or None."""
    return _folder(params).get(_leaf(PROMPT_NAME))


def check_no_prompt(params: Mapping[str, Any]) -> None:
    """ValueError where there is a prompt, in whose place another would come."""
    if prompt_of(params) is not None:
        raise ValueError(
            "This model's adapter has a prompt at the input already: use it without another one."
        )


def join_shared(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """`params` with a shared prompt and the task's own behind it as one prompt [P0 + P, D]."""
    folder = _folder(params)
    if _leaf(SHARED_NAME) not in folder:
        return params
    return with_prompt(params, jnp.concatenate([folder[_leaf(name)] for name in _PROMPT_NAMES]))


def is_of_prompt(name: str) -> bool:
    """Whether a parameter is a prompt, or a part of one, by its flat name."""
    return name.startswith(PROMPT_FOLDER)


def without_prompt(flat: FlatParams) -> FlatParams:
    """The parameters that are the model's own."""
    return {name: x for name, x in flat.items() if not is_of_prompt(name)}


def whole_prompt(flat: FlatParams) -> Float[np.ndarray, "P D"] | None:
    """The prompt, behind the shared one if there is one; None without a prompt."""
    parts = [np.asarray(flat[name]) for name in _PROMPT_NAMES if name in flat]
    return np.concatenate(parts) if parts else None


def _folder(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is in the prompts' folder."""
    stack, folder, _ = PROMPT_FOLDER.split("/")
    return params.get(stack, {}).get(folder, {})


def _with_folder(params: Mapping[str, Any], prompts: Mapping[str, Any]) -> dict[str, Any]:
    stack, folder, _ = PROMPT_FOLDER.split("/")
    return {**params, stack: {**params.get(stack, {}), folder: prompts}}


def _leaf(name: str) -> str:
    return name.removeprefix(PROMPT_FOLDER)
