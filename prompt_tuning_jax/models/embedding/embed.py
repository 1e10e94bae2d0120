"""From rows of tokens to vectors, as a function of a prompt that may be traced.

A batch holds

    tokens             [B, T]   padding is -1
    skipped            [B]      how many of a row's first tokens do not count in the pooling
    prompt_ids         [B]      which prompt of a bank each row has
    prompt_positions   [B, S]   where the prompt's rows are, if they are not in front: `tokens` then
                                is [B, S] with room for them, -1 there too

B batch   T tokens   S tokens and prompt   P prompt length   N prompts in the bank   D embed
E numbers of a vector
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from prompt_tuning_jax.layout import NO_TOKEN, attended, place_prompt
from prompt_tuning_jax.models.embedding.config import EmbeddingConfig
from prompt_tuning_jax.models.embedding.encoders import Rows, encoder_of
from prompt_tuning_jax.models.embedding.pooling import pooled

_ACTIVATIONS = {
    "linear": lambda x: x,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}


def embedded(
    config: EmbeddingConfig,
    params: Mapping[str, Any],
    prompt: Float[Array, "*N P D"] | None,
    batch: Mapping[str, Any],
    pool_prompt: bool = False,
) -> Float[Array, "B E"]:
    """The vector of each row, float32.

    Args:
      prompt: one prompt, or a bank, which needs `prompt_ids`; None for the model alone.
      pool_prompt: whether the prompt's positions count in the pooling.
    """
    rows = _placed(config, prompt, batch, pool_prompt)
    x_BxSxD = encoder_of(config.network).encode(config.network, params, rows)
    counted_BxS = _counted(rows, batch, pool_prompt)
    vectors = [pooled(mode, x_BxSxD, counted_BxS, rows.attended) for mode in config.pooling]
    return _through_steps(config, params, jnp.concatenate(vectors, axis=-1))


def _placed(
    config: EmbeddingConfig,
    prompt: Float[Array, "*N P D"] | None,
    batch: Mapping[str, Any],
    pool_prompt: bool,
) -> Rows:
    tokens_BxT = jnp.asarray(batch["tokens"])
    if prompt is None:
        return Rows(tokens_BxT, attended(tokens_BxT, pad_id=NO_TOKEN))
    positions_BxS, ids = batch.get("prompt_positions"), batch.get("prompt_ids")
    if positions_BxS is None and _is_apart(config, prompt, len(tokens_BxT), pool_prompt):
        return Rows(tokens_BxT, attended(tokens_BxT, pad_id=NO_TOKEN), prompt, prompt_ids=ids)
    if positions_BxS is None:
        length = prompt.shape[-2]
        tokens_BxT, positions_BxS = place_prompt(tokens_BxT, length, pad_id=NO_TOKEN)
    attended_BxS = attended(tokens_BxT, positions_BxS, NO_TOKEN)
    return Rows(tokens_BxT, attended_BxS, prompt, positions_BxS, ids)


def _is_apart(
    config: EmbeddingConfig, prompt: Float[Array, "*N P D"], count: int, pool_prompt: bool
) -> bool:
    """Whether a prompt in front of `count` rows is no part of them.

    It is where pooling asks nothing of its positions, and there are no more prompts than rows.
    """
    asked = pool_prompt or "weightedmean" in config.pooling
    prompts = prompt.shape[0] if prompt.ndim == 3 else 1
    return encoder_of(config.network).takes_front and not asked and prompts <= count


def _counted(rows: Rows, batch: Mapping[str, Any], pool_prompt: bool) -> Bool[Array, "B S"]:
    """Which positions count in the pooling."""
    is_token_BxS = rows.tokens != NO_TOKEN
    number_BxS = jnp.cumsum(is_token_BxS, axis=1, dtype=jnp.int32)
    counted_BxS = is_token_BxS & (number_BxS > jnp.asarray(batch["skipped"])[:, None])
    if pool_prompt and rows.prompt_positions is not None:
        counted_BxS = counted_BxS | (rows.prompt_positions >= 0)
    return counted_BxS


def _through_steps(
    config: EmbeddingConfig, params: Mapping[str, Any], x_BxE: Float[Array, "B _"]
) -> Float[Array, "B E"]:
    for number, step in enumerate(config.steps):
        if step.kind == "normalize":
            # As torch has it, and with a gradient where a vector is 0.
            length_Bx1 = jnp.sqrt(jnp.maximum(jnp.sum(x_BxE**2, axis=-1, keepdims=True), 1e-24))
            x_BxE = x_BxE / length_Bx1
            continue
        if step.kind == "truncate":
            x_BxE = x_BxE[:, : step.outputs]
            continue
        weights = params[f"step_{number}"]
        x_BxE = x_BxE @ weights["kernel"].astype(jnp.float32)
        if step.bias:
            x_BxE = x_BxE + weights["bias"].astype(jnp.float32)[None, :]
        x_BxE = _ACTIVATIONS[step.activation](x_BxE)
    return x_BxE
