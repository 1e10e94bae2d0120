"""T5 as a family of models (`models.family`): a frozen network with a prompt in its parameters.

The functions here may be traced; `model.FrozenModel` and the training step are made of them.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.layout import laid_out, needs_no_room
from prompt_tuning_jax.models.attention.choice import Shape
from prompt_tuning_jax.models.encoder_decoder import Read
from prompt_tuning_jax.models.t5 import T5Config, Transformer
from prompt_tuning_jax.models.t5.isolated_prompt import Apart
from prompt_tuning_jax.models.t5.scan import scanned
from prompt_tuning_jax.params import join_shared, prompt_of
from prompt_tuning_jax.prompts import Prompt, PromptBank

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
    "network_for",
    "read",
    "scanned",
]

EMBEDDING_NAME = "token_embedder/embedding"


@functools.lru_cache
def network_for(config: T5Config, prompt_shape: tuple[int, ...] | None) -> Transformer:
    """The network, one object for equal arguments so that compiled programs are reused.

    Args:
      prompt_shape: [P, D], [N, P, D] for a bank, or None.
    """
    if prompt_shape is None:
        return Transformer(config)
    *bank, length, _ = prompt_shape
    if not bank:
        return Transformer(config, prompt=functools.partial(Prompt, length=length))
    make_bank = functools.partial(PromptBank, num_prompts=bank[0], length=length)
    return Transformer(config, prompt=make_bank)


def abstract_variables(config: T5Config, prompt_shape: tuple[int, ...] | None) -> Mapping[str, Any]:
    """The shapes of `params`, and their logical axes as `params_axes`, read from the network."""
    network = network_for(config, prompt_shape)

    def init(tokens: Array) -> Any:
        return network.init(jax.random.key(0), tokens, tokens, tokens, enable_dropout=False)

    return jax.eval_shape(init, jax.ShapeDtypeStruct((1, 2), jnp.int32))


def embedding_scale(config: T5Config) -> float:
    """Of what rows of the embedding table are multiplied by: nothing changes them."""
    del config
    return 1.0


def bind(
    config: T5Config, params: Mapping[str, Any], batch: Mapping[str, Any], layout: str
) -> tuple[Transformer, Any, dict[str, Any]]:
    """The network for `params`, its tokens [B, S], and where the prompt's rows sit in them.

    The batch or `layout` says it; isolated prompts before their inputs need no room among them.
    """
    prompt = prompt_of(params)
    if prompt is None:
        return network_for(config, None), batch["encoder_input_tokens"], {}
    special = config.eos_id, config.pad_id
    placed = laid_out(batch, prompt.shape[-2], layout, config.prompt_visibility, *special)
    return network_for(config, prompt.shape), *placed


def apply(
    config: T5Config,
    params: Mapping[str, Any],
    batch: Mapping[str, Any],
    layout: str = "prefix",
    dropout_rng: Any | None = None,
) -> Float[Array, "B L V"]:
    """Logits for a batch with T5X's keys, packed or not; the prompt, if any, is in `params`."""
    params = join_shared(params)
    network, tokens, places = bind(config, params, batch, layout)
    return network.apply(
        {"params": params},
        tokens,
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        batch.get("encoder_segment_ids"),
        batch.get("decoder_segment_ids"),
        **places,
        enable_dropout=dropout_rng is not None,
        rngs=None if dropout_rng is None else {"dropout": dropout_rng},
    )


def read(
    network: Transformer,
    params: Mapping[str, Any],
    tokens: Int[Array, "B S"],
    places: Mapping[str, Any],
) -> Read:
    """Encodes the inputs."""
    if (front := places.get("front")) is not None:
        return _read_behind(network, params, tokens, *front)
    weights, positions = {"params": params}, places.get("prompt_positions")
    encoded_BxSxD = network.apply(weights, tokens, enable_dropout=False, method="encode", **places)
    cross_kv = network.apply(weights, encoded_BxSxD, method="project_encoded")
    S = encoded_BxSxD.shape[1]
    return Read(cross_kv, network.apply(weights, S, tokens, positions, method="attended"))


def has_front(config: T5Config) -> bool:
    """Whether there is `in_front`: not in LongT5, whose blocks of keys begin with a row."""
    return config.encoder_attention == "full"


def in_front(
    config: T5Config,
    params: Mapping[str, Any],
    prompts: Float[Array, "N P D"],
    lengths: Int[Array, " N"],
) -> Apart:
    """Isolated prompts through the encoder; one that is shorter than P goes to the end of its P."""
    P = prompts.shape[1]
    from_NxP = (jnp.arange(P)[None, :] + lengths[:, None]) % P
    at_end_NxPxD = jnp.take_along_axis(prompts, from_NxP[:, :, None], axis=1)
    network = network_for(dataclasses.replace(config, prompt_visibility="isolated"), None)
    is_prompt_NxP = _at_end(P, lengths)
    return network.apply({"params": params}, at_end_NxPxD, is_prompt_NxP, method="encode_apart")


def _at_end(P: int, lengths: Int[Array, " N"]) -> Bool[Array, "N P"]:
    return jnp.arange(P)[None, :] >= P - lengths[:, None]


def _read_behind(
    network: Transformer,
    params: Mapping[str, Any],
    tokens: Int[Array, "B T"],
    apart: Apart,
    ids: Int[Array, " B"],
    lengths: Int[Array, " B"],
) -> Read:
    weights, is_prompt_BxP = {"params": params}, _at_end(apart.out.shape[1], lengths)
    encoded_BxSxD = network.apply(
        weights, tokens, apart, ids, is_prompt_BxP, method="encode_behind"
    )
    cross_kv = network.apply(weights, encoded_BxSxD, method="project_encoded")
    is_token_BxT = network.apply(weights, tokens.shape[1], tokens, None, method="attended")
    return Read(cross_kv, jnp.concatenate([is_prompt_BxP, is_token_BxT], axis=1))


def decode(
    network: Transformer,
    params: Mapping[str, Any],
    inputs: Read,
    tokens: Int[Array, "B L"],
    cache: Any = None,
    max_decode_length: int | None = None,
) -> tuple[Float[Array, "B L V"], Any]:
    """Logits of what follows `tokens`, and the cache that they are in."""
    weights = {"params": params}
    logits_BxLxV, changed = network.apply(
        weights if cache is None else {**weights, "cache": cache},
        tokens,
        inputs.attended,
        inputs.cross_kv,
        decode=max_decode_length is not None,
        method="decode_after",
        mutable=["cache"],
    )
    return logits_BxLxV, changed.get("cache")


def depth(config: T5Config) -> int:
    """How many layers the stack has that a prompt goes into."""
    return config.num_encoder_layers


def attention_shape(
    config: T5Config, *, rows: int, inputs: int, targets: int, prompt: int, layout: str
) -> Shape | None:
    """The scores of a layer of the encoder; None in LongT5, whose attention is local."""
    del targets
    if config.encoder_attention != "full":
        return None
    keys = inputs + prompt
    queries = inputs if needs_no_room(layout, config.prompt_visibility) else keys
    return Shape(rows, config.num_heads, queries, keys, config.head_dim)


def cache_axis(config: T5Config) -> int:
    """Which axis of a cache's leaves is the batch: after the layers, where these are scanned."""
    return int(config.scan_layers)
