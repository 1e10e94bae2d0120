"""The trained parameter: one prompt [P, D], or a bank of N prompts [N, P, D].

A prompt is float32 whatever the model's dtype, and is cast where it joins the embedded tokens.

B batch   S joined length   P prompt length   N prompts in the bank   D embed
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.initializers import Initializer, uniform
from prompt_tuning_jax.params import parameter

# Which prompt of a bank each row uses, or each position of rows that hold several examples.
PromptIds = Int[Array, " B"] | Int[Array, "B S"]


class Prompt(nn.Module):
    """One prompt of `length` rows: parameter `prompt` [P, D], axes ("prompt", "embed").

    `initializer` makes the first values: called as `initializer(key, (P, D))`, see `initializers`.
    """

    length: int
    initializer: Initializer = uniform(0.5)

    @nn.compact
    def __call__(self, features: int) -> Float[Array, "P D"]:
        """The prompt, `features` = D wide."""
        return _parameter(self, self._init, (self.length, features), ("prompt", "embed"))

    def _init(self, key: jax.Array, shape: tuple[int, int]) -> Float[Array, "P D"]:
        return _checked(self.initializer(key, shape), shape)


class PromptBank(nn.Module):
    """`num_prompts` prompts: parameter `prompt` [N, P, D], axes ("prompt_bank", "prompt", "embed").

    `initializer` makes each one's first values, with a key of its own. Which row of a batch uses
    which prompt is data: `prompt_ids`.
    """

    num_prompts: int
    length: int
    initializer: Initializer = uniform(0.5)

    @nn.compact
    def __call__(self, features: int) -> Float[Array, "N P D"]:
        """All prompts, `features` = D wide."""
        shape = (self.num_prompts, self.length, features)
        return _parameter(self, self._init_each, shape, ("prompt_bank", "prompt", "embed"))

    def _init_each(self, key: jax.Array, shape: tuple[int, int, int]) -> Float[Array, "N P D"]:
        keys = jax.random.split(key, shape[0])
        return jnp.stack([_checked(self.initializer(each, shape[1:]), shape[1:]) for each in keys])


def _parameter(
    module: nn.Module, init: Callable[..., Any], shape: tuple[int, ...], axes: tuple[str, ...]
) -> Float[Array, "*N P D"]:
    if module.has_variable("params", "prompt"):
        _checked(module.get_variable("params", "prompt"), shape)
    return parameter(module, "prompt", init, shape, axes=axes)


def _checked(values: Any, shape: tuple[int, ...]) -> Float[Array, "*N P D"]:
    values = jnp.asarray(values, jnp.float32)
    if values.shape != shape:
        raise ValueError(
            f"The prompt's values are {list(values.shape)}, but this model is set up for "
            f"{list(shape)} ([length, width], after the number of prompts in a bank): set the "
            "length to the prompt's own, and use a prompt as wide as the model's embeddings."
        )
    return values


def join(
    embedded_BxSxD: Float[Array, "B S D"],
    prompts: Float[Array, "*N P D"],
    prompt_positions_BxS: Int[Array, "B S"],
    prompt_ids: PromptIds | None = None,
) -> Float[Array, "B S D"]:
    """Puts the prompt's rows where `prompt_positions` says; other positions keep their embedding.

    Args:
      prompts: one prompt [P, D], or a bank [N, P, D].
      prompt_ids: [B], or [B, S] where rows hold several prompts. May be left out where there is
        only one prompt.

    Raises:
      ValueError: a bank of several prompts without `prompt_ids`, or a prompt of another width.
    """
    bank_NxPxD = checked_bank(prompts, embedded_BxSxD.shape[-1], prompt_ids)
    N, P, D = bank_NxPxD.shape
    row_BxS = prompt_positions_BxS
    if prompt_ids is not None and N > 1:
        ids = prompt_ids[:, None] if prompt_ids.ndim == 1 else prompt_ids
        row_BxS = jnp.where(row_BxS >= 0, ids * P + row_BxS, row_BxS)
    prompt_BxSxD = _take(bank_NxPxD.reshape(N * P, D).astype(embedded_BxSxD.dtype), row_BxS)
    return jnp.where(prompt_positions_BxS[:, :, None] >= 0, prompt_BxSxD, embedded_BxSxD)


def checked_bank(
    prompts: Float[Array, "*N P D"], width: int, prompt_ids: PromptIds | None
) -> Float[Array, "N P D"]:
    """Prompts that are to join embeddings of a width; one prompt as a bank of one.

    Raises:
      ValueError: a bank of several prompts without `prompt_ids`, or prompts of another width.
    """
    if prompts.shape[-1] != width:
        raise ValueError(
            f"The prompt is {prompts.shape[-1]} wide but the model's embeddings are "
            f"{width} wide: use a prompt that was tuned for this model."
        )
    bank_NxPxD = prompts if prompts.ndim == 3 else prompts[None]
    if len(bank_NxPxD) > 1 and prompt_ids is None:
        raise ValueError(
            f"This bank holds {len(bank_NxPxD)} prompts: pass prompt_ids ([batch], or "
            "[batch, length] for packed rows) to say which one each row uses."
        )
    return bank_NxPxD


@jax.custom_vjp
def _take(rows_RxD: Float[Array, "R D"], index_BxS: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """`rows[index]`, anything where the index is negative; its gradient is a matrix product.

    Every position adds to one of few rows, which an accelerator's scatter does one by one.
    """
    return rows_RxD[jnp.maximum(index_BxS, 0)]


def _take_forward(rows_RxD: Array, index_BxS: Array) -> tuple[Array, tuple[Array, Array]]:
    return _take(rows_RxD, index_BxS), (rows_RxD, index_BxS)


def _take_backward(kept: tuple[Array, Array], change_BxSxD: Array) -> tuple[Array, None]:
    rows_RxD, index_BxS = kept
    taken_BxSxR = jax.nn.one_hot(index_BxS, len(rows_RxD), dtype=change_BxSxD.dtype)
    change_RxD = jnp.einsum(
        "bsr,bsd->rd",
        taken_BxSxR,
        change_BxSxD,
        precision="highest",  # sums, of numbers as they are
        preferred_element_type=jnp.float32,
    )
    return change_RxD.astype(rows_RxD.dtype), None


_take.defvjp(_take_forward, _take_backward)
