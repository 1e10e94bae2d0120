"""The trained parameter: one prompt [P, D], or a bank of N prompts [N, P, D].

A prompt is float32 whatever the model's dtype, and is cast where it joins the embedded tokens.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning
from jaxtyping import Array, Float, Int


def _uniform(key, shape):
    return jax.random.uniform(key, shape, jnp.float32, -0.5, 0.5)


class Prompt(nn.Module):
    """One prompt of `length` rows: parameter `prompt` [P, D], axes ("prompt", "embed").

    `initializer` makes the first values: called as `initializer(key, (P, D))`, see `initializers`.
    """

    length: int
    initializer: Callable[..., Any] = _uniform

    @nn.compact
    def __call__(self, features: int) -> Float[Array, "prompt embed"]:
        return partitioning.param_with_axes(
            "prompt", self._checked_init, (self.length, features), axes=("prompt", "embed")
        )

    def _checked_init(self, key: jax.Array, shape: tuple[int, int]) -> Float[Array, "P D"]:
        return _initial_values(self.initializer, key, shape)


class PromptBank(nn.Module):
    """`num_prompts` prompts: parameter `prompt` [N, P, D], each started by `initializer` with its own key.

    Which row of a batch uses which prompt is data, `prompt_ids`.
    """

    num_prompts: int
    length: int
    initializer: Callable[..., Any] = _uniform

    @nn.compact
    def __call__(self, features: int) -> Float[Array, "prompt_bank prompt embed"]:
        shape = (self.num_prompts, self.length, features)
        axes = ("prompt_bank", "prompt", "embed")
        return partitioning.param_with_axes("prompt", self._init_each, shape, axes=axes)

    def _init_each(self, key: jax.Array, shape: tuple[int, int, int]) -> Float[Array, "N P D"]:
        keys = jax.random.split(key, shape[0])
        return jnp.stack([_initial_values(self.initializer, each, shape[1:]) for each in keys])


def _initial_values(init: Callable[..., Any], key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    values = jnp.asarray(init(key, shape), jnp.float32)
    if values.shape != shape:
        raise ValueError(
            f"The prompt's initial values are {list(values.shape)}, but this model and prompt "
            f"length need [length, width] = {list(shape)}: set the prompt length to "
            f"{values.shape[0]}, or start from a prompt of the same width as the model."
        )
    return values


def join(
    embedded_BxSxD: Float[Array, "batch length embed"],
    prompts: Float[Array, "*bank prompt embed"],
    prompt_positions_BxS: Int[Array, "batch length"],
    prompt_ids: Int[Array, "batch *length"] | None = None,
) -> Float[Array, "batch length embed"]:
    """Puts prompt rows where `prompt_positions` says; other positions keep their embedding.

    `prompts` is [P, D] or [N, P, D]; `prompt_ids` is [B], or [B, S] where a row holds several
    prompts, and may be left out where there is only one.

    Raises:
        ValueError: a bank of several prompts without `prompt_ids`, or a prompt of another width.
    """
    if prompts.shape[-1] != embedded_BxSxD.shape[-1]:
        raise ValueError(
            f"The prompt is {prompts.shape[-1]} wide but the model's embeddings are "
            f"{embedded_BxSxD.shape[-1]} wide: use a prompt that was tuned for this model."
        )
    row_BxS = jnp.maximum(prompt_positions_BxS, 0)
    bank_NxPxD = prompts if prompts.ndim == 3 else prompts[None]
    bank_NxPxD = bank_NxPxD.astype(embedded_BxSxD.dtype)
    if bank_NxPxD.shape[0] == 1:
        prompt_BxSxD = bank_NxPxD[0][row_BxS]
    elif prompt_ids is None:
        raise ValueError(
            f"This bank holds {bank_NxPxD.shape[0]} prompts: pass prompt_ids ([batch], or "
            "[batch, length] for packed rows) to say which one each row uses."
        )
    else:
        ids = prompt_ids[:, None] if prompt_ids.ndim == 1 else prompt_ids
        prompt_BxSxD = bank_NxPxD[jnp.broadcast_to(ids, row_BxS.shape), row_BxS]
    return jnp.where(prompt_positions_BxS[:, :, None] >= 0, prompt_BxSxD, embedded_BxSxD)
