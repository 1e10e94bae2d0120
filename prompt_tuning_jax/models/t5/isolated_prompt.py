"""Encoding of prompts that see nothing of the input: once per prompt and not once per row.

What stands at such a prompt's positions is the same in every row, so the prompts [N, P, D] go
through the layers by themselves (`through`), and then the tokens [B, T, D] with the keys and values
of their row's prompt (`behind`). Without dropout the output is that of the plain encoder with the
prompt before the input; with it, all rows of a prompt share one draw. What was computed may be kept
for other rows, also of prompts that are shorter than P: these stand at the end of the P positions,
as far from the tokens as if there were nothing before them.

B batch   S joined length   T input tokens   P prompt length   N prompts in the bank   D embed
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax import layout
from prompt_tuning_jax.models.t5 import scan


class Apart(NamedTuple):
    """What rows see of N prompts.

    Attributes:
      layers: of each layer keys and values [N, H, P, K], in the form of `scan.through`.
      out: what the encoder makes of the prompts.
    """

    layers: Any
    out: Float[Array, "N P D"]


def encode(
    encoder: nn.Module,
    tokens_BxT: Int[Array, "B T"],
    prompts: Float[Array, "*N P D"],
    *,
    prompt_ids: Int[Array, " B"] | None,
    deterministic: bool,
) -> Float[Array, "B S D"]:
    """The output of an `encoder.Encoder`, S = P + T; the prompt stands before the input."""
    p_NxPxD = prompts if prompts.ndim == 3 else prompts[None]
    (N, P, _), B = p_NxPxD.shape, len(tokens_BxT)
    if encoder.layers[0].attention.prefix_length():
        raise ValueError(
            f"A prefix in the encoder's attention and the {encoder.config.prompt_visibility!r} "
            "visibility of a prompt do not go together: use the visibility 'full'."
        )
    apart = through(encoder, p_NxPxD, jnp.ones((N, P), bool), deterministic=deterministic)
    ids_B = jnp.zeros(B, jnp.int32) if prompt_ids is None else prompt_ids
    is_prompt_BxP = jnp.ones((B, P), bool)
    return behind(encoder, tokens_BxT, apart, ids_B, is_prompt_BxP, deterministic=deterministic)


def through(
    encoder: nn.Module,
    prompts_NxPxD: Float[Array, "N P D"],
    is_prompt_NxP: Bool[Array, "N P"],
    *,
    deterministic: bool,
) -> Apart:
    """Prompts through the layers, by themselves."""
    cfg, P = encoder.config, prompts_NxPxD.shape[1]
    positions_1xP = jnp.arange(P)[None, :]
    mask_1xPxP = layout.prompt_mask(positions_1xP, positions_1xP, cfg.prompt_visibility)
    bias = encoder.bias(mask_1xPxP & is_prompt_NxP[:, None, :], queries=P)

    def step(layer, p_NxPxD, _):
        kept = layer.project(p_NxPxD)
        return layer(p_NxPxD, bias=bias, deterministic=deterministic), kept

    p_NxPxD = encoder.dropout(prompts_NxPxD.astype(cfg.dtype), deterministic=deterministic)
    p_NxPxD, kept = scan.through(encoder.layers, step, p_NxPxD, depth=cfg.num_encoder_layers)
    out = encoder.dropout(encoder.encoder_norm(p_NxPxD), deterministic=deterministic)
    return Apart(kept, out)


def behind(
    encoder: nn.Module,
    tokens_BxT: Int[Array, "B T"],
    apart: Apart,
    ids_B: Int[Array, " B"],
    is_prompt_BxP: Bool[Array, "B P"],
    *,
    deterministic: bool,
) -> Float[Array, "B S D"]:
    """Tokens behind prompts that went through the layers before; both, encoded.

    Args:
      ids_B: which prompt each row has.
      is_prompt_BxP: where it is.
    """
    cfg, T = encoder.config, tokens_BxT.shape[1]
    is_token_BxT = layout.attended(tokens_BxT, pad_id=cfg.pad_id)
    mask_BxS = jnp.concatenate([is_prompt_BxP, is_token_BxT], axis=1)
    bias = encoder.bias(mask_BxS[:, None, :], queries=T)

    def step(layer, x_BxTxD, of_layer):
        before = tuple(x[ids_B] for x in of_layer)
        return layer(x_BxTxD, bias=bias, deterministic=deterministic, before=before), None

    x_BxTxD = encoder.dropout(encoder.token_embedder(tokens_BxT), deterministic=deterministic)
    depth = cfg.num_encoder_layers
    x_BxTxD, _ = scan.through(encoder.layers, step, x_BxTxD, depth=depth, per_layer=apart.layers)
    x_BxTxD = encoder.dropout(encoder.encoder_norm(x_BxTxD), deterministic=deterministic)
    return jnp.concatenate([apart.out[ids_B], x_BxTxD], axis=1)
