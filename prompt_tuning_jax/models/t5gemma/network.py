"""T5Gemma: an encoder whose positions see both ways, and a decoder that attends to what it made.

B batch   S encoder positions   L targets, or positions of either stack   D width of a stack
H heads   G heads of keys and values   K head dim   V vocabulary
"""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.layout import attended, prompt_mask
from prompt_tuning_jax.models.causal import network as causal
from prompt_tuning_jax.models.causal.attention import NOWHERE, Places, visible
from prompt_tuning_jax.models.causal.config import CausalConfig
from prompt_tuning_jax.models.causal.layers import Weights, norm
from prompt_tuning_jax.models.t5gemma.config import T5GemmaConfig
from prompt_tuning_jax.models.t5gemma.layers import Cache, OfLayer, Text, Window, through
from prompt_tuning_jax.params import prompt_of


def embedded(
    config: CausalConfig, params: Weights, tokens: Any, prompt: Any = None, **places: Any
) -> Float[Array, "B L D"]:
    """Tokens [B, L] as a stack's first layer reads them: the prompt's rows are scaled with them."""
    x_BxLxD = causal.embedded(config, params, tokens, None, prompt, **places)
    return x_BxLxD * jnp.asarray(math.sqrt(config.emb_dim), x_BxLxD.dtype)


def encode(
    config: T5GemmaConfig,
    params: Weights,
    tokens: Any,
    segments: Int[Array, "B S"] | None = None,
    dropout_rng: Array | None = None,
    *,
    prompt_positions: Any = None,
    prompt_ids: Any = None,
) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
    """The encoder's output over tokens [B, S] and prompt, and where it is no padding."""
    stack, encoder = config.encoder, params["encoder"]
    is_text_BxS = attended(tokens, prompt_positions, config.pad_id)
    # Only distances matter, so those of a packed row need not begin at 0 in each example.
    queries = Places(jnp.cumsum(is_text_BxS, axis=1, dtype=jnp.int32) - 1, segments)
    keys = Places(jnp.where(is_text_BxS, queries.positions, NOWHERE), segments)
    allowed_BxSxS = None
    if prompt_positions is not None and config.prompt_visibility != "full":
        allowed_BxSxS = prompt_mask(prompt_positions, prompt_positions, config.prompt_visibility)

    def seen(window: Window) -> Bool[Array, "B S S"]:
        limit = None if window is None else window + 1  # it counts the positions to either side
        seen_BxSxS = visible(queries, keys, limit, bidirectional=True)
        return seen_BxSxS if allowed_BxSxS is None else seen_BxSxS & allowed_BxSxS

    places = {"prompt_positions": prompt_positions, "prompt_ids": prompt_ids}
    x_BxSxD = embedded(stack, params, tokens, prompt_of(params), **places)
    x_BxSxD, _ = through(stack, encoder, x_BxSxD, queries.positions, seen, dropout_rng=dropout_rng)
    return norm(stack, x_BxSxD, encoder["encoder_norm"]), is_text_BxS


def decode(
    config: T5GemmaConfig,
    params: Weights,
    tokens_BxL: Int[Array, "B L"],
    text: Text,
    segments_BxL: Int[Array, "B L"] | None = None,
    cache: Cache | None = None,
    per_layer: OfLayer | tuple[OfLayer, ...] | None = None,
    dropout_rng: Array | None = None,
) -> tuple[Float[Array, "B L V"], Any]:
    """Logits of each next target, and the keys and values of a cache that these tokens joined.

    Padding ends a row, where no target sees it; examples of a packed row stand side by side. So
    positions are counted from the row's beginning.
    """
    stack, decoder = config.decoder, params["decoder"]
    index, room = (0, tokens_BxL.shape[1]) if cache is None else cache
    queries = Places(_from(index, *tokens_BxL.shape), segments_BxL)
    keys = Places(_from(0, tokens_BxL.shape[0], room), segments_BxL)

    def seen(window: Window) -> Bool[Array, "B L R"]:
        return visible(queries, keys, window)

    # As in a causal model, whose embedding table is its own.
    own = {"decoder": decoder, "token_embedder": decoder["token_embedder"]}
    x_BxLxD = embedded(stack, own, tokens_BxL)
    x_BxLxD, kept = through(
        stack, decoder, x_BxLxD, queries.positions, seen, text, index, per_layer, dropout_rng
    )
    return causal.to_logits(stack, own, x_BxLxD), kept


def _from(first: Any, rows: int, length: int) -> Int[Array, "B L"]:
    """The positions first, first + 1, ... of every row."""
    return jnp.broadcast_to(first + jnp.arange(length)[None, :], (rows, length))
