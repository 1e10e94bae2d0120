"""BERT: embedded tokens and prompt rows through layers that norm what they add up.

B batch   S joined length   P prompt length   N prompts in the bank   D embed   H heads   K head dim
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen.partitioning import with_sharding_constraint
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax import prompts
from prompt_tuning_jax.layout import prompt_mask
from prompt_tuning_jax.models.activations import ACTIVATIONS
from prompt_tuning_jax.models.attention.attend import attend
from prompt_tuning_jax.models.attention.bias import Bias, mask_bias
from prompt_tuning_jax.models.bert.config import BertConfig
from prompt_tuning_jax.models.causal.attention import split_heads
from prompt_tuning_jax.models.causal.layers import project
from prompt_tuning_jax.models.products import SCALE, scaled

Weights = Mapping[str, Any]


def encode(
    config: BertConfig,
    params: Weights,
    tokens_BxS: Int[Array, "B S"],
    attended_BxS: Bool[Array, "B S"],
    prompt: Float[Array, "*N P D"] | None = None,
    prompt_positions_BxS: Int[Array, "B S"] | None = None,
    prompt_ids: prompts.PromptIds | None = None,
) -> Float[Array, "B S D"]:
    """What the last layer makes of each position.

    Args:
      attended: True at tokens and prompt rows. They have positions one after another, a prompt's
        rows as tokens do, so that it makes no difference where padding stands.

    Raises:
      ValueError: rows are longer than the model's positions go.
    """
    x_BxSxD = embedded(
        config, params, tokens_BxS, attended_BxS, prompt, prompt_positions_BxS, prompt_ids
    )
    mask_BxSxS = attended_BxS[:, None, :]
    if prompt_positions_BxS is not None and config.prompt_visibility != "full":
        mask_BxSxS = mask_BxSxS & prompt_mask(
            prompt_positions_BxS, prompt_positions_BxS, config.prompt_visibility
        )
    bias = Bias(mask_bias(mask_BxSxS))
    for i in range(config.num_layers):
        x_BxSxD = layer(config, x_BxSxD, params["encoder"][f"layers_{i}"], bias)
    return x_BxSxD


def embedded(
    config: BertConfig,
    params: Weights,
    tokens_BxS: Int[Array, "B S"],
    attended_BxS: Bool[Array, "B S"],
    prompt: Float[Array, "*N P D"] | None,
    prompt_positions_BxS: Int[Array, "B S"] | None,
    prompt_ids: prompts.PromptIds | None,
) -> Float[Array, "B S D"]:
    """The first layer's input: a position and a type are added to tokens and prompt rows alike."""
    if tokens_BxS.shape[1] > config.length_limit:
        raise ValueError(
            f"Rows have {tokens_BxS.shape[1]} positions, but this model knows only "
            f"{config.length_limit}: shorten the texts or the prompt."
        )
    x_BxSxD = _rows(params["token_embedder"], tokens_BxS, config)
    if prompt is not None and prompt_positions_BxS is not None:
        # Where the prompt joins the embedded input.
        x_BxSxD = prompts.join(x_BxSxD, prompt, prompt_positions_BxS, prompt_ids)
    position_BxS = positions(config, tokens_BxS, attended_BxS)
    x_BxSxD = x_BxSxD + _rows(params["position_embedder"], position_BxS, config)
    x_BxSxD = x_BxSxD + _rows(params["type_embedder"], jnp.zeros_like(tokens_BxS), config)
    return norm(config, x_BxSxD, params["embedding_norm"])


def positions(
    config: BertConfig, tokens_BxS: Int[Array, "B S"], attended_BxS: Bool[Array, "B S"]
) -> Int[Array, "B S"]:
    """Of each token and prompt row, one after another.

    RoBERTa's kind counts from behind its padding's id; padding that a text itself holds stands
    there, at a position of its own.
    """
    before = config.first_position - 1
    counts_BxS = attended_BxS & (tokens_BxS != before) if before >= 0 else attended_BxS
    count_BxS = jnp.cumsum(counts_BxS, axis=1, dtype=jnp.int32)
    return jnp.where(counts_BxS, before + count_BxS, max(before, 0))


def layer(
    config: BertConfig, x_BxSxD: Float[Array, "B S D"], weights: Weights, bias: Bias
) -> Float[Array, "B S D"]:
    """Self-attention and an MLP; what each makes of its input is added to that, and normed."""
    # Self-attention block.
    y_BxSxD = attention(config, x_BxSxD, weights["attention"], bias)
    x_BxSxD = norm(config, x_BxSxD + y_BxSxD, weights["attention_norm"])

    # MLP block.
    hidden_BxSxF = ACTIVATIONS[config.activation](project(config, x_BxSxD, weights["mlp"]["wi"]))
    hidden_BxSxF = with_sharding_constraint(hidden_BxSxF, ("batch", "length", "mlp"))
    y_BxSxD = project(config, hidden_BxSxF, weights["mlp"]["wo"])
    return norm(config, x_BxSxD + y_BxSxD, weights["mlp_norm"])


def attention(
    config: BertConfig, x_BxSxD: Float[Array, "B S D"], weights: Weights, bias: Bias
) -> Float[Array, "B S D"]:
    """softmax(q k' / sqrt(K) + mask) v, of heads that are then joined."""
    q_BxHxSxK, k_BxHxSxK, v_BxHxSxK = (
        split_heads(project(config, x_BxSxD, weights[name]), config.num_heads)
        for name in ("query", "key", "value")
    )
    q_BxHxSxK = q_BxHxSxK * jnp.asarray(q_BxHxSxK.shape[-1] ** -0.5, q_BxHxSxK.dtype)
    heads_BxHxSxK = attend(
        q_BxHxSxK,
        k_BxHxSxK,
        v_BxHxSxK,
        bias,
        form=config.attention,
        chunk=config.attention_chunk,
    )
    joined_BxSxHK = jnp.swapaxes(heads_BxHxSxK, 1, 2).reshape(x_BxSxD.shape)
    return project(config, joined_BxSxHK, weights["out"])


def norm(
    config: BertConfig, x_BxSxD: Float[Array, "B S D"], weights: Weights
) -> Float[Array, "B S D"]:
    """Layer norm; computed in float32."""
    y = x_BxSxD.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + config.norm_epsilon)
    scale, shift = (weights[name].astype(jnp.float32)[None, None] for name in ("scale", "bias"))
    return (y * scale + shift).astype(x_BxSxD.dtype)


def _rows(
    weights: Weights, index_BxS: Int[Array, "B S"], config: BertConfig
) -> Float[Array, "B S D"]:
    """Rows of an embedding table."""
    rows = weights["embedding"][index_BxS].astype(config.dtype)
    scale = weights.get("embedding" + SCALE)
    return scaled(rows, None if scale is None else scale[index_BxS])
