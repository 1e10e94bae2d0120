"""T5Gemma as a family (`models.family`): a prompt at the encoder's embedded input, as in T5.

Positions count tokens and prompt rows alone, so that a row has the same logits however its batch
is padded.

B batch   S encoder positions   L targets   V vocabulary
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.layout import laid_out, within_segments
from prompt_tuning_jax.models.attention.choice import Shape
from prompt_tuning_jax.models.causal.apply import empty_cache
from prompt_tuning_jax.models.causal.network import FunctionalNetwork
from prompt_tuning_jax.models.encoder_decoder import Read
from prompt_tuning_jax.models.t5gemma import network, weights
from prompt_tuning_jax.models.t5gemma.config import T5GemmaConfig
from prompt_tuning_jax.models.t5gemma.layers import Cache, OfLayer, Text, of_text_in_all
from prompt_tuning_jax.models.t5gemma.weights import EMBEDDING_NAME, abstract_variables
from prompt_tuning_jax.params import join_shared, prompt_of

__all__ = [
    "EMBEDDING_NAME",
    "abstract_variables",
    "apply",
    "attention_shape",
    "bind",
    "cache_axis",
    "decode",
    "depth",
    "embedding_scale",
    "read",
    "scanned",
]


def embedding_scale(config: T5GemmaConfig) -> float:
    """1: the prompt joins rows of the table as they are, and is scaled with them after that."""
    del config
    return 1.0


def bind(
    config: T5GemmaConfig, params: Mapping[str, Any], batch: Mapping[str, Any], layout: str
) -> tuple[FunctionalNetwork, Any, dict[str, Any]]:
    """The network, its tokens [B, S], and where the prompt's rows sit in them.

    The batch or `layout` says it; every prompt is computed in its rows, and gets room there.
    """
    prompt, net = prompt_of(params), FunctionalNetwork(config)
    if prompt is None:
        return net, batch["encoder_input_tokens"], {}
    special = config.eos_id, config.pad_id
    return net, *laid_out(batch, prompt.shape[-2], layout, "full", *special)


def apply(
    config: T5GemmaConfig,
    params: Mapping[str, Any],
    batch: Mapping[str, Any],
    layout: str = "prefix",
    dropout_rng: Array | None = None,
) -> Float[Array, "B L V"]:
    """Logits of the targets for a batch with T5X's keys, packed or not."""
    params = join_shared(params)
    _, tokens_BxS, prompt = bind(config, params, batch, layout)
    segments_BxS, segments_BxL = (
        batch.get(f"{part}_segment_ids") for part in ("encoder", "decoder")
    )
    of_encoder, of_decoder = (None, None) if dropout_rng is None else jax.random.split(dropout_rng)
    encoded_BxSxD, is_text_BxS = network.encode(
        config, params, tokens_BxS, segments_BxS, of_encoder, **prompt
    )
    targets_BxL = batch["decoder_input_tokens"]
    seen_BxLxS = _seen_text(is_text_BxS, targets_BxL, segments_BxL, segments_BxS)
    text = Text(encoded_BxSxD, seen_BxLxS)
    logits_BxLxV, _ = network.decode(
        config, params, targets_BxL, text, segments_BxL, dropout_rng=of_decoder
    )
    return logits_BxLxV


def read(
    net: FunctionalNetwork,
    params: Mapping[str, Any],
    tokens: Int[Array, "B S"],
    places: Mapping[str, Any],
) -> Read:
    """Encodes the inputs."""
    encoded_BxSxD, is_text_BxS = network.encode(net.config, params, tokens, **places)
    return Read(of_text_in_all(net.config.decoder, params["decoder"], encoded_BxSxD), is_text_BxS)


def decode(
    net: FunctionalNetwork,
    params: Mapping[str, Any],
    inputs: Read,
    tokens: Int[Array, "B L"],
    cache: Any = None,
    max_decode_length: int | None = None,
) -> tuple[Float[Array, "B L V"], Any]:
    """Logits of what follows `tokens`, and the cache that they are in."""
    config = net.config
    text = Text(None, _seen_text(inputs.attended, tokens))
    at = None if cache is None else Cache(cache["index"], max_decode_length)
    per_layer = _of_layers(config, inputs.cross_kv, None if cache is None else cache["layers"])
    logits_BxLxV, kept = network.decode(config, params, tokens, text, cache=at, per_layer=per_layer)
    if cache is not None:
        return logits_BxLxV, {"index": cache["index"] + tokens.shape[1], "layers": kept}
    if max_decode_length is not None:
        return logits_BxLxV, empty_cache(config.decoder, len(tokens), max_decode_length)
    return logits_BxLxV, None


def depth(config: T5GemmaConfig) -> int:
    """How many layers the stack has that a prompt goes into."""
    return len(config.encoder.layers)


def attention_shape(
    config: T5GemmaConfig, *, rows: int, inputs: int, targets: int, prompt: int, layout: str
) -> Shape:
    """The scores of a layer of the encoder."""
    del targets, layout
    stack, length = config.encoder, inputs + prompt
    is_capped = stack.score_cap is not None
    return Shape(rows, stack.num_heads, length, length, stack.head_dim, is_capped)


def cache_axis(config: T5GemmaConfig) -> int:
    """Which axis of a cache's leaves is the batch: after the layers, where these are scanned."""
    return int(config.scan_layers)


def scanned(
    config: T5GemmaConfig, params: Mapping[str, Any]
) -> tuple[T5GemmaConfig, dict[str, Any]]:
    """The same model with its layers' weights stacked; its numbers stay the same."""
    return dataclasses.replace(config, scan_layers=True), weights.stack_layers(config, params)


def _seen_text(
    is_text_BxS: Any, tokens_BxL: Any, segments_BxL: Any = None, segments_BxS: Any = None
) -> Bool[Array, "B L S"]:
    """True where a target attends to a position of the encoder: all but padding."""
    shape = *tokens_BxL.shape, is_text_BxS.shape[1]
    seen_BxLxS = jnp.broadcast_to(is_text_BxS[:, None, :], shape)
    return within_segments(seen_BxLxS, segments_BxL, segments_BxS)


def _of_layers(config: T5GemmaConfig, of_text: Any, cached: Any) -> Any:
    """What the layers get that is their own, each by itself or stacked."""
    if config.scan_layers:
        return OfLayer(of_text, cached)
    return tuple(
        OfLayer(*of_layer)
        for of_layer in zip(of_text, cached or [None] * len(of_text), strict=True)
    )
