"""Causal language models as a family (`models.family`): a text, then targets that go on from it.

A batch has T5's form, and one causal row is made of it (`rows`):

    encoder_input_tokens   [B, S]   the prompt and the text; where its padding stands is no matter
    decoder_input_tokens   [B, L]   start_id, then the targets but for the last
    row                    [B, R]   text, targets, padding; R = S + L - 1

The start token is not read. Its place stands for the last token before the targets, from which the
first target is predicted; packed rows have one for each of their examples. Positions count tokens
and prompt rows alone, each example's from 0, so that a row has the same logits however its batch
is padded. A prompt that stands in front of all rows is no part of them (`front`).

B batch   S prompt and text   L targets   R positions   D embed   G heads of keys   K head dim
V vocabulary
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.layout import laid_out
from prompt_tuning_jax.models.attention.choice import Shape
from prompt_tuning_jax.models.causal import front, network, rows, weights
from prompt_tuning_jax.models.causal.attention import NOWHERE, Block, KeyValue, Places, in_one
from prompt_tuning_jax.models.causal.config import CausalConfig
from prompt_tuning_jax.models.causal.layers import embedding_scale
from prompt_tuning_jax.models.causal.network import FunctionalNetwork
from prompt_tuning_jax.models.causal.weights import EMBEDDING_NAME, abstract_variables
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
    "has_front",
    "in_front",
    "read",
    "scanned",
]


def bind(
    config: CausalConfig, params: Mapping[str, Any], batch: Mapping[str, Any], layout: str
) -> tuple[FunctionalNetwork, Any, dict[str, Any]]:
    """The network, its tokens [B, S], and where the prompt's rows sit in them.

    The batch or `layout` says it; a prompt in front needs no room among them.

    Raises:
      ValueError: an isolated prompt that does not stand in front.
    """
    prompt, net = prompt_of(params), FunctionalNetwork(config)
    if prompt is None:
        return net, batch["encoder_input_tokens"], {}
    visibility = config.visibility_in([layout], config.prompt_visibility)
    special = config.eos_id, config.pad_id
    return net, *laid_out(batch, prompt.shape[-2], layout, visibility, *special)


def apply(
    config: CausalConfig,
    params: Mapping[str, Any],
    batch: Mapping[str, Any],
    layout: str = "prefix",
    dropout_rng: Array | None = None,
) -> Float[Array, "B L V"]:
    """Logits of the targets for a batch with T5X's keys, packed or not."""
    params = join_shared(params)
    _, tokens_BxS, places = bind(config, params, batch, layout)
    drop_front, drop_rows = (None, None) if dropout_rng is None else jax.random.split(dropout_rng)
    before = _front(config, params, places, drop_front)
    row = rows.of_batch(tokens_BxS, places, batch, config.pad_id, _first(config, params, before))
    _check_length(config, params, before, row.tokens.shape[1])
    x_BxRxD = _embedded(config, params, row, before)
    x_BxLxD, _ = network.through(
        config,
        params,
        x_BxRxD,
        row.queries,
        _of_rows(row.keys, before),
        before and before.layers,
        row.sources,
        drop_rows,
    )
    if before is not None:
        x_BxLxD = before.where_no_text(x_BxLxD, row.has_text)
    return network.to_logits(config, params, x_BxLxD)


class Read(NamedTuple):
    """Prompt and text, read.

    Attributes:
      block: where they are, and their keys and values in all layers: computed once, for all beams
        and labels.
      last: where the last token is.
      first: the logits of the token after it.
    """

    block: Block
    last: Int[Array, "B 1"]
    first: Float[Array, "B 1 V"]


def read(
    net: FunctionalNetwork,
    params: Mapping[str, Any],
    tokens: Int[Array, "B S"],
    places: Mapping[str, Any],
) -> Read:
    """Prompt and text through the layers."""
    config = net.config
    before = _front(config, params, places)
    text = rows.of_texts(tokens, places, config.pad_id, _first(config, params, before))
    _check_length(config, params, before, tokens.shape[1])
    x_Bx1xD, of_text = network.through(
        config,
        params,
        _embedded(config, params, text, before),
        text.queries,
        _of_rows(text.keys, before),
        before and before.layers,
        text.sources,
    )
    block = Block(of_text, text.keys)
    if before is not None:
        x_Bx1xD = before.where_no_text(x_Bx1xD, text.has_text)
        block = _in_one_block(before, block)
    logits_Bx1xV = network.to_logits(config, params, x_Bx1xD)
    return Read(block, text.queries.positions[:, -1:], logits_Bx1xV)


def has_front(config: CausalConfig) -> bool:
    """Whether there is `in_front`: always, as no position sees what comes after it."""
    del config
    return True


def in_front(
    config: CausalConfig,
    params: Mapping[str, Any],
    prompts: Float[Array, "N P D"],
    lengths: Int[Array, " N"],
) -> Any:
    """The keys and values of each prompt's rows; what stands past its length is not looked at."""
    del lengths
    return front.through(config, params, prompts, jnp.arange(len(prompts))).layers


def decode(
    net: FunctionalNetwork,
    params: Mapping[str, Any],
    inputs: Read,
    tokens: Int[Array, "B L"],
    cache: Any = None,
    max_decode_length: int | None = None,
) -> tuple[Float[Array, "B L V"], Any]:
    """Logits of what follows `tokens`, and the cache that they are in.

    The cache holds the keys and values of the tokens after the text, the start token's place
    unused.
    """
    config, L = net.config, tokens.shape[1]
    read_length = network.prefix_length(config, params) + inputs.block.places.positions.shape[1]
    network.check_length(config, read_length + (max_decode_length or L) - 1)
    if cache is None and max_decode_length is None:
        return _through_targets(config, params, inputs, tokens, None, 0, L)[0], None
    if cache is None:
        return jnp.repeat(inputs.first, L, axis=1), empty_cache(config, *tokens.shape)
    index, own = cache["index"], cache["layers"]

    def step() -> tuple[Array, Any]:
        return _through_targets(config, params, inputs, tokens, own, index, max_decode_length)

    if L == 1:  # nothing is to be computed for the start token, nor kept of it
        logits_BxLxV, kept = jax.lax.cond(index == 0, lambda: (inputs.first, own), step)
    else:
        logits_BxLxV, kept = step()
    return logits_BxLxV, {"index": index + L, "layers": kept}


def depth(config: CausalConfig) -> int:
    """How many layers the stack has that a prompt goes into."""
    return len(config.layers)


def attention_shape(
    config: CausalConfig, *, rows: int, inputs: int, targets: int, prompt: int, layout: str
) -> Shape:
    """The scores of a layer: a prompt in front is among its keys alone."""
    text = inputs + targets - 1
    queries = text if layout == "prefix" else text + prompt
    is_capped = config.score_cap is not None
    return Shape(rows, config.num_heads, queries, text + prompt, config.head_dim, is_capped)


def cache_axis(config: CausalConfig) -> int:
    """Which axis of a cache's leaves is the batch: after the layers, where these are scanned."""
    return int(config.scan_layers)


def scanned(config: CausalConfig, params: Mapping[str, Any]) -> tuple[CausalConfig, dict[str, Any]]:
    """The same model with its layers' weights stacked; its numbers stay the same."""
    return dataclasses.replace(config, scan_layers=True), weights.stack_layers(config, params)


def _front(
    config: CausalConfig,
    params: Mapping[str, Any],
    places: Mapping[str, Any],
    dropout_rng: Array | None = None,
) -> front.Front | None:
    """The prompt, where it stands in front of the rows; None where it is in them, or nowhere."""
    if (of_rows := places.get("front")) is not None:
        return front.kept(config, params, front.Kept(*of_rows))
    prompt = prompt_of(params)
    if prompt is None or places.get("prompt_positions") is not None:
        return None
    return front.through(config, params, prompt, places.get("prompt_ids"), dropout_rng)


def _first(
    config: CausalConfig, params: Mapping[str, Any], before: front.Front | None
) -> int | Int[Array, "B 1"]:
    """The position of a row's first token."""
    return network.prefix_length(config, params) if before is None else before.end


def _check_length(
    config: CausalConfig, params: Mapping[str, Any], before: front.Front | None, length: int
) -> None:
    prompt = 0 if before is None else before.length
    network.check_length(config, network.prefix_length(config, params) + prompt + length)


def _embedded(
    config: CausalConfig, params: Mapping[str, Any], row: rows.Rows, before: front.Front | None
) -> Float[Array, "B R D"]:
    prompt, where = (prompt_of(params), row.prompt) if before is None else (None, {})
    return network.embedded(config, params, row.tokens, row.queries.positions, prompt, **where)


def _of_rows(keys: Places, before: front.Front | None) -> network.Memory:
    """Layers of rows that see the prompt in front of them, and keep their own keys and values."""

    def memory(own: KeyValue, of_front: Any) -> tuple[list[Block], KeyValue]:
        prompt = [] if before is None else [before.block(of_front)]
        return [*prompt, Block(own, keys)], own

    return memory


def _through_targets(
    config: CausalConfig,
    params: Mapping[str, Any],
    inputs: Read,
    tokens_BxL: Int[Array, "B L"],
    own: Any,
    index: Int[Array, ""] | int,
    room: int,
) -> tuple[Float[Array, "B L V"], Any]:
    """Tokens `index` to `index` + L after the text, with `room` for all: logits, and what is kept.

    Args:
      own: the keys and values of the tokens before them, or None.
    """
    L = tokens_BxL.shape[1]
    # A start token's place is that of the text's last token, and no key.
    queries = Places(inputs.last + index + jnp.arange(L)[None, :])
    places_1xR = jnp.arange(room)[None, :]
    keys = Places(jnp.where(places_1xR > 0, inputs.last + places_1xR, NOWHERE))
    x_BxLxD = network.embedded(config, params, tokens_BxL, queries.positions)
    memory = _of_targets(inputs.block.places, keys, index)
    x_BxLxD, kept = network.through(
        config, params, x_BxLxD, queries, memory, _by_layer(config, (inputs.block.kv, own))
    )
    logits_BxLxV = network.to_logits(config, params, x_BxLxD)
    is_start_1xLx1 = (index + jnp.arange(L) == 0)[None, :, None]
    return jnp.where(is_start_1xLx1, inputs.first, logits_BxLxV), kept


def _in_one_block(before: front.Front, text: Block) -> Block:
    """The prompt's keys and values before each row's, of all layers."""
    rows = len(text.places.positions)

    def joined(of_front: KeyValue, of_rows: KeyValue) -> KeyValue:
        prompt = before.block(of_front).kv
        return KeyValue(*(in_one(pair, rows) for pair in zip(prompt, of_rows, strict=True)))

    if isinstance(text.kv, KeyValue):  # of scanned layers
        kv = jax.vmap(joined)(before.layers, text.kv)
    else:
        kv = tuple(joined(*pair) for pair in zip(before.layers, text.kv, strict=True))
    prompt = jnp.broadcast_to(before.places.positions, (rows, before.length))
    return Block(kv, Places(jnp.concatenate([prompt, text.places.positions], axis=1)))


def _of_targets(texts: Places, targets: Places, index: Int[Array, ""] | int) -> network.Memory:
    """Layers of tokens that see what was read, and those before them, whose cache they join."""

    def memory(own: KeyValue, of_layer: Any) -> tuple[list[Block], KeyValue]:
        of_read, cached = of_layer
        if cached is not None:
            put = jax.lax.dynamic_update_slice_in_dim
            own = KeyValue(
                *(put(old, x, index, axis=2) for old, x in zip(cached, own, strict=True))
            )
        return [Block(of_read, texts), Block(own, targets)], own

    return memory


def _by_layer(config: CausalConfig, given: tuple[Any, ...]) -> Any:
    """What there is of all layers, as `through` takes it: stacked, or a tuple for each layer."""
    if config.scan_layers:
        return given
    nothing = [None] * len(config.layers)
    return tuple(zip(*(nothing if each is None else each for each in given), strict=True))


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
