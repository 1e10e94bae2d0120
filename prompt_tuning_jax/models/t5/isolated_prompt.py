"""Encoding of prompts that see nothing of the input: once per prompt and not once per row.

What stands at such a prompt's positions is the same in every row, so the prompts [N, P, D] go
through the layers by themselves, and the tokens [B, T, D] with the keys and values of their row's
prompt. Without dropout the output is that of the plain encoder with the prompt before the input;
with it, all rows of a prompt share one draw.

B batch   S joined length   T input tokens   P prompt length   N prompts in the bank   D embed
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning_jax import layout
from prompt_tuning_jax.models.t5 import scan


def encode(
    encoder: nn.Module,
    tokens_BxT: Int[Array, "B T"],
    prompts: Float[Array, "*N P D"],
    *,
    prompt_ids: Int[Array, " B"] | None,
    deterministic: bool,
) -> Float[Array, "B S D"]:
    """The output of an `encoder.Encoder`, S = P + T; the prompt stands before the input."""
    cfg = encoder.config
    p_NxPxD = (prompts if prompts.ndim == 3 else prompts[None]).astype(cfg.dtype)
    (B, T), P = tokens_BxT.shape, p_NxPxD.shape[1]
    positions_1xP = jnp.arange(P)[None, :]
    if encoder.layers[0].attention.prefix_length():
        raise ValueError(
            f"A prefix in the encoder's attention and the {cfg.prompt_visibility!r} visibility "
            "of a prompt do not go together: use the visibility 'full'."
        )
    prompt_mask = layout.prompt_mask(positions_1xP, positions_1xP, cfg.prompt_visibility)
    tokens_mask_BxT = layout.attended(tokens_BxT, pad_id=cfg.pad_id)
    mask_BxS = jnp.concatenate([jnp.ones((B, P), bool), tokens_mask_BxT], axis=1)
    prompt_bias = encoder.bias(prompt_mask, queries=P)
    bias = encoder.bias(mask_BxS[:, None, :], queries=T)
    parts = p_NxPxD, encoder.token_embedder(tokens_BxT)
    parts = tuple(encoder.dropout(x, deterministic=deterministic) for x in parts)

    def of_rows(x):
        """[N, ...] to [B, ...]: that of each row's prompt."""
        return x[jnp.zeros(B, jnp.int32) if prompt_ids is None else prompt_ids]

    def step(layer, parts, _):
        p_NxPxD, x_BxTxD = parts
        before = tuple(of_rows(each) for each in layer.project(p_NxPxD))
        p_NxPxD = layer(p_NxPxD, bias=prompt_bias, deterministic=deterministic)
        x_BxTxD = layer(x_BxTxD, bias=bias, deterministic=deterministic, before=before)
        return (p_NxPxD, x_BxTxD), None

    parts, _ = scan.through(encoder.layers, step, parts, depth=cfg.num_encoder_layers)
    parts = (encoder.encoder_norm(x) for x in parts)
    p_NxPxD, x_BxTxD = (encoder.dropout(x, deterministic=deterministic) for x in parts)
    return jnp.concatenate([of_rows(p_NxPxD), x_BxTxD], axis=1)
