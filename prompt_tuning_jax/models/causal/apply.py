"""Causal language models as a family (`models.family`): a text, then targets that go on from it.

A batch has T5's form, and one causal row is made of it:

    encoder_input_tokens   [B, S]   the prompt and the text; where its padding stands is no matter
    decoder_input_tokens   [B, L]   start_id, then the targets but for the last
    row                    [B, S + L]

The start token is not read. Its place stands for the last token before the targets, from which the
first target is predicted; packed rows have one for each of their examples. Positions count tokens
and prompt rows alone, each example's from 0, so that a row has the same logits however its batch
is padded.

B batch   S prompt and text   L targets   D embed   G heads of keys   K head dim   V vocabulary
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.layout import attended, place_prompt, places_in
from prompt_tuning_jax.models.causal import network, rows, weights
from prompt_tuning_jax.models.causal.attention import NOWHERE, KeyValue, Places, visible
from prompt_tuning_jax.models.causal.config import CausalConfig
from prompt_tuning_jax.models.causal.layers import embedding_scale
from prompt_tuning_jax.models.causal.weights import EMBEDDING_NAME, abstract_variables
from prompt_tuning_jax.params import join_shared, prompt_of

__all__ = [
    "EMBEDDING_NAME",
    "abstract_variables",
    "apply",
    "bind",
    "cache_axis",
    "depth",
    "embedding_scale",
    "scanned",
    "start_decoding",
]


@dataclasses.dataclass(frozen=True)
class CausalNetwork:
    """A config, as what decoding takes for a network."""

    config: CausalConfig


def bind(
    config: CausalConfig, params: Mapping[str, Any], batch: Mapping[str, Any], layout: str
) -> tuple[CausalNetwork, Any, dict[str, Any]]:
    """The network, its tokens [B, S], and where the prompt's rows sit in them.

    A batch may bring its layout; one that does not is laid out by `layout`.
    """
    prompt, tokens = prompt_of(params), batch["encoder_input_tokens"]
    net = CausalNetwork(config)
    if prompt is None:
        return net, tokens, {}
    if (given := places_in(batch)) is not None:
        return net, tokens, given
    tokens, positions = place_prompt(tokens, prompt.shape[-2], layout, config.eos_id, config.pad_id)
    return net, tokens, {"prompt_positions": positions, "prompt_ids": batch.get("prompt_ids")}


def apply(
    config: CausalConfig,
    params: Mapping[str, Any],
    batch: Mapping[str, Any],
    layout: str = "prefix",
    dropout_rng: Array | None = None,
) -> Float[Array, "B L V"]:
    """Logits of the targets for a batch with T5X's keys, packed or not."""
    params = join_shared(params)
    _, tokens_BxS, prompt = bind(config, params, batch, layout)
    targets_BxL = batch["decoder_input_tokens"]
    S, L = tokens_BxS.shape[1], targets_BxL.shape[1]
    network.check_length(config, S + L - 1)
    segments_BxS, segments_BxL = (
        batch.get(f"{part}_segment_ids") for part in ("encoder", "decoder")
    )
    is_start_BxL = rows.starts(targets_BxL, segments_BxL)
    is_text_BxS = attended(tokens_BxS, prompt.get("prompt_positions"), config.pad_id)
    is_target_BxL = attended(targets_BxL, pad_id=config.pad_id) & ~is_start_BxL
    queries, keys = rows.places(
        jnp.concatenate([is_text_BxS, is_target_BxL], axis=1),
        None if segments_BxS is None else jnp.concatenate([segments_BxS, segments_BxL], axis=1),
    )

    x_BxRxD = network.embedded(
        config,
        params,
        jnp.concatenate([tokens_BxS, targets_BxL], axis=1),
        queries.positions,
        prompt_of(params),
        **rows.lengthened(prompt, L),
    )
    x_BxRxD, _ = network.through(
        config, params, x_BxRxD, queries, of_row(queries, keys), dropout_rng=dropout_rng
    )

    # The first target comes from the text's last token, each other one from that before it.
    last_BxL = rows.last_tokens(is_text_BxS, segments_BxS, segments_BxL, L)
    source_BxL = jnp.where(is_start_BxL, last_BxL, S + jnp.arange(L)[None, :])
    x_BxLxD = jnp.take_along_axis(x_BxRxD, source_BxL[:, :, None], axis=1)
    return network.to_logits(config, params, x_BxLxD)


def start_decoding(
    net: CausalNetwork,
    params: Mapping[str, Any],
    tokens: Int[Array, "B S"],
    places: Mapping[str, Any],
) -> Callable[..., tuple[Float[Array, "B L V"], Any]]:
    """Reads prompt and text; returns decode(tokens, cache, max_decode_length) -> (logits, cache).

    Their keys and values are computed once, for all beams and labels. The cache holds those of the
    tokens after them, the start token's place unused.
    """
    config = net.config
    is_text_BxS = attended(tokens, places.get("prompt_positions"), config.pad_id)
    queries, text = rows.places(is_text_BxS, None)
    where = {name: x for name, x in places.items() if x is not None}
    x_BxSxD = network.embedded(
        config, params, tokens, queries.positions, prompt_of(params), **where
    )
    x_BxSxD, of_text = network.through(config, params, x_BxSxD, queries, of_row(queries, text))
    last_Bx1 = rows.last_tokens(is_text_BxS, None, None, 1)
    x_Bx1xD = jnp.take_along_axis(x_BxSxD, last_Bx1[:, :, None], axis=1)
    first_Bx1xV = network.to_logits(config, params, x_Bx1xD)
    count_Bx1 = jnp.sum(is_text_BxS, axis=1, keepdims=True, dtype=jnp.int32)

    def decode(tokens_BxL, cache=None, max_decode_length=None):
        L = tokens_BxL.shape[1]
        network.check_length(config, tokens.shape[1] + (max_decode_length or L) - 1)
        if max_decode_length is not None and cache is None:
            return jnp.repeat(first_Bx1xV, L, axis=1), empty_cache(config, *tokens_BxL.shape)
        index = 0 if cache is None else cache["index"]
        own = None if cache is None else cache["layers"]
        room = L if cache is None else max_decode_length
        # A start token's place is that of the text's last token, and no key.
        queries = Places(count_Bx1 - 1 + index + jnp.arange(L)[None, :])
        places_1xR = jnp.arange(room)[None, :]
        keys = Places(jnp.where(places_1xR > 0, count_Bx1 - 1 + places_1xR, NOWHERE))
        x_BxLxD = network.embedded(config, params, tokens_BxL, queries.positions)
        memory = _of_text_and_targets(queries, text, keys, index)
        x_BxLxD, kept = network.through(
            config, params, x_BxLxD, queries, memory, _paired(config, of_text, own)
        )
        logits_BxLxV = network.to_logits(config, params, x_BxLxD)
        is_start_1xLx1 = (index + jnp.arange(L) == 0)[None, :, None]
        logits_BxLxV = jnp.where(is_start_1xLx1, first_Bx1xV, logits_BxLxV)
        return logits_BxLxV, None if cache is None else {"index": index + L, "layers": kept}

    return decode


def depth(config: CausalConfig) -> int:
    """How many layers the stack has that a prompt goes into."""
    return len(config.layers)


def cache_axis(config: CausalConfig) -> int:
    """Which axis of a cache's leaves is the batch: after the layers, where these are scanned."""
    return int(config.scan_layers)


def scanned(config: CausalConfig, params: Mapping[str, Any]) -> tuple[CausalConfig, dict[str, Any]]:
    """The same model with its layers' weights stacked; its numbers stay the same."""
    return dataclasses.replace(config, scan_layers=True), weights.stack_layers(config, params)


def of_row(queries: Places, keys: Places) -> network.Memory:
    """Layers of a row by itself, which keep their keys and values."""

    def memory(kind, own, _):
        return [(own, visible(queries, keys, kind.window))], own

    return memory


def _of_text_and_targets(
    queries: Places, text: Places, targets: Places, index: Int[Array, ""] | int
) -> network.Memory:
    """Layers of tokens that see a text, and those before them, whose cache they go into."""

    def memory(kind, own, of_layer):
        of_text, cached = of_layer
        if cached is not None:
            put = jax.lax.dynamic_update_slice_in_dim
            own = KeyValue(
                *(put(old, x, index, axis=2) for old, x in zip(cached, own, strict=True))
            )
        seen = [
            (of_text, visible(queries, text, kind.window)),
            (own, visible(queries, targets, kind.window)),
        ]
        return seen, own

    return memory


def _paired(config: CausalConfig, of_text: Any, cached: Any) -> Any:
    """(a layer's text, its cache), each layer by itself or stacked, as `through` takes them."""
    if config.scan_layers:
        return of_text, cached
    return tuple(zip(of_text, cached or [None] * len(of_text), strict=True))


def empty_cache(config: CausalConfig, batch: int, length: int) -> dict[str, Any]:
    """Room for the keys and values of `length` tokens in every layer."""
    depth = len(config.layers)
    stacked = (depth,) if config.scan_layers else ()
    nothing = jnp.zeros(
        (*stacked, batch, config.num_kv_heads, length, config.head_dim), config.dtype
    )
    layer = KeyValue(nothing, nothing)
    layers = layer if config.scan_layers else (layer,) * depth
    return {"index": jnp.zeros((), jnp.int32), "layers": layers}
