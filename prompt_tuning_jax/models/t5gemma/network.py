"""T5Gemma: an encoder whose positions see both ways, and a decoder that attends to what it made.

B batch   S encoder positions   L targets   D the encoder's width   E the decoder's
H heads   G heads of keys and values   K head dim   V vocabulary
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.layout import attended, prompt_mask, within_segments
from prompt_tuning_jax.models.causal import network as causal
from prompt_tuning_jax.models.causal import rows
from prompt_tuning_jax.models.causal.attention import (
    NOWHERE,
    KeyValue,
    Kind,
    Places,
    attend,
    project_heads,
    split_heads,
)
from prompt_tuning_jax.models.causal.config import CausalConfig
from prompt_tuning_jax.models.causal.layers import Weights, mlp, norm, project
from prompt_tuning_jax.models.t5gemma.config import T5GemmaConfig
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
    stack, prompt = config.encoder, prompt_of(params)
    is_text_BxS = attended(tokens, prompt_positions, config.pad_id)
    queries, keys = rows.places(is_text_BxS, segments)
    allowed_BxSxS = None
    if prompt_positions is not None and config.prompt_visibility != "full":
        allowed_BxSxS = prompt_mask(prompt_positions, prompt_positions, config.prompt_visibility)

    def memory(kind: Kind, own: KeyValue, _: Any) -> tuple[Any, None]:
        seen_BxSxS = near(queries, keys, kind.window)
        return [(own, seen_BxSxS if allowed_BxSxS is None else seen_BxSxS & allowed_BxSxS)], None

    places = {"prompt_positions": prompt_positions, "prompt_ids": prompt_ids}
    x_BxSxD = embedded(stack, params, tokens, prompt, **places)
    x_BxSxD, _ = causal.through(
        stack, {"decoder": params["encoder"]}, x_BxSxD, queries, memory, dropout_rng=dropout_rng
    )
    return norm(stack, x_BxSxD, params["encoder"]["encoder_norm"]), is_text_BxS


def near(
    queries: Places, keys: Places, window: int | Int[Array, ""] | None
) -> Bool[Array, "B L S"]:
    """True where a query sees a key, before it or after it: at most `window` away."""
    distance_BxLxS = queries.positions[:, :, None] - keys.positions[:, None, :]
    is_token_Bx1xS = (keys.positions != NOWHERE)[:, None, :]
    limit = NOWHERE if window is None else window
    seen_BxLxS = is_token_Bx1xS & (jnp.abs(distance_BxLxS) <= limit)
    return within_segments(seen_BxLxS, queries.segments, keys.segments)


class OfLayer(NamedTuple):
    """What a decoder's layer gets that is its own.

    Attributes:
      text: what cross-attention makes of the encoding, where that is made once for many calls.
      cached: keys and values of the tokens before, where they are kept.
    """

    text: KeyValue
    cached: KeyValue | None


def decode(
    config: T5GemmaConfig,
    params: Weights,
    tokens_BxL: Int[Array, "B L"],
    encoded_BxSxD: Float[Array, "B S D"],
    seen_text_BxLxS: Bool[Array, "B L S"],
    places: Places,
    memory: causal.Memory,
    per_layer: Any = None,
    dropout_rng: Array | None = None,
) -> tuple[Float[Array, "B L V"], Any]:
    """Logits of each next target, and what `memory` kept of each layer.

    Args:
      seen_text: which of the encoder's positions each token attends to.
      places, memory: of the tokens, as `causal.network.through` takes them.
      per_layer: `OfLayer`s, one for each layer or stacked; None: all made here.
    """
    stack, decoder = config.decoder, params["decoder"]
    # As a causal model, its embedding table is not the encoder's.
    own = {"decoder": decoder, "token_embedder": decoder["token_embedder"]}
    layer = functools.partial(block, encoded_BxSxD=encoded_BxSxD, seen_text_BxLxS=seen_text_BxLxS)
    x_BxLxE = embedded(stack, own, tokens_BxL)
    x_BxLxE, kept = causal.through(
        stack, own, x_BxLxE, places, memory, per_layer, dropout_rng, layer=layer
    )
    return causal.to_logits(stack, own, x_BxLxE), kept


def block(
    config: CausalConfig,
    x_BxLxE: Float[Array, "B L E"],
    weights: Weights,
    kind: Kind,
    of_layer: OfLayer | None,
    key: Array | None,
    *,
    places: Places,
    memory: causal.Memory,
    encoded_BxSxD: Float[Array, "B S D"],
    seen_text_BxLxS: Bool[Array, "B L S"],
) -> tuple[Float[Array, "B L E"], Any]:
    """A decoder's layer: a causal model's, with cross-attention before the MLP."""
    drop = functools.partial(causal.dropout, config.dropout_rate)

    # Self-attention block.
    y_BxLxE = norm(config, x_BxLxE, weights["pre_attention_norm"])
    q_BxHxLxK, own = project_heads(config, y_BxLxE, weights["attention"], places.positions, kind)
    seen, kept = memory(kind, own, of_layer)
    y_BxLxE = attend(config, q_BxHxLxK, seen, weights["attention"])
    x_BxLxE = x_BxLxE + drop(norm(config, y_BxLxE, weights["post_attention_norm"]), key, 0)

    # Cross-attention block: nothing is turned, and no window.
    y_BxLxE = norm(config, x_BxLxE, weights["pre_cross_attention_norm"])
    cross = weights["cross_attention"]
    q_BxHxLxK = split_heads(project(config, y_BxLxE, cross["query"]), config.num_heads)
    text = of_text(config, encoded_BxSxD, cross) if of_layer is None else of_layer.text
    y_BxLxE = attend(config, q_BxHxLxK, [(text, seen_text_BxLxS)], cross)
    x_BxLxE = x_BxLxE + drop(norm(config, y_BxLxE, weights["post_cross_attention_norm"]), key, 1)

    # MLP block.
    y_BxLxE = norm(config, x_BxLxE, weights["pre_mlp_norm"])
    y_BxLxE = mlp(config, y_BxLxE, weights["mlp"])
    return x_BxLxE + drop(norm(config, y_BxLxE, weights["post_mlp_norm"]), key, 2), kept


def of_text(
    config: CausalConfig, encoded_BxSxD: Float[Array, "B S D"], weights: Weights
) -> KeyValue:
    """A layer's cross-attention keys and values."""
    return KeyValue(
        *(
            split_heads(project(config, encoded_BxSxD, weights[name]), config.num_kv_heads)
            for name in ("key", "value")
        )
    )


def of_text_in_all(
    config: CausalConfig, params: Weights, encoded_BxSxD: Float[Array, "B S D"]
) -> Any:
    """`of_text` of every layer: a tuple, or stacked where layers are scanned."""
    decoder = params["decoder"]
    if config.scan_layers:
        cross = decoder["layers"]["cross_attention"]
        return jax.lax.map(functools.partial(of_text, config, encoded_BxSxD), cross)
    return tuple(
        of_text(config, encoded_BxSxD, decoder[f"layers_{i}"]["cross_attention"])
        for i in range(len(config.layers))
    )
