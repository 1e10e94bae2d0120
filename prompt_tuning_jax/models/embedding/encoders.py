"""What each kind of network makes of every position of its input.

A kind has a line in ENCODERS. Padding is whatever is not attended to, and a network is free to
have any id there.

B batch   S joined length   P prompt length   N prompts in the bank   D embed
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.models.bert import BertConfig
from prompt_tuning_jax.models.bert import network as bert
from prompt_tuning_jax.models.bert import weights as bert_weights
from prompt_tuning_jax.models.causal import BidirectionalConfig, CausalConfig, front
from prompt_tuning_jax.models.causal import network as causal
from prompt_tuning_jax.models.causal import weights as causal_weights
from prompt_tuning_jax.models.causal.attention import NOWHERE, Block, KeyValue, Places
from prompt_tuning_jax.models.causal.layers import embedding_scale, norm
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.models.t5 import apply as t5
from prompt_tuning_jax.params import with_prompt
from prompt_tuning_jax.prompts import PromptIds

# The flat name of the input embedding table [V, D], of all kinds.
EMBEDDING_NAME = "token_embedder/embedding"


class Rows(NamedTuple):
    """What goes into an encoder.

    Attributes:
      tokens: [B, S], anything where there is none.
      attended: [B, S], True at tokens and prompt rows.
      prompt: [P, D], [N, P, D] for a bank, or None.
      prompt_positions: [B, S], which row of its prompt each position has, -1 elsewhere; None: the
        prompt stands in front of the rows and is no part of them, which needs `takes_front`.
      prompt_ids: [B], which prompt of a bank each row has.
    """

    tokens: Int[Array, "B S"]
    attended: Bool[Array, "B S"]
    prompt: Float[Array, "*N P D"] | None = None
    prompt_positions: Int[Array, "B S"] | None = None
    prompt_ids: PromptIds | None = None


class Encoder(NamedTuple):
    """A kind of network.

    Attributes:
      encode: (config, params, rows) -> what the last layer makes of each position [B, S, D].
      abstract_variables: shapes and logical axes of the weights, as in `models.family`.
      is_used: (name of a weight) -> whether encoding reads it.
      embedding_scale: config -> what rows of the embedding table are multiplied by.
      prefix_length: (config, params) -> how many positions an adapter's keys take before a row.
      takes_front: whether a prompt in front sees nothing of a row, and may be no part of it.
    """

    encode: Callable[[Any, Mapping[str, Any], Rows], Float[Array, "B S D"]]
    abstract_variables: Callable[[Any, Any], Mapping[str, Any]]
    is_used: Callable[[str], bool]
    embedding_scale: Callable[[Any], float] = lambda config: 1.0
    prefix_length: Callable[[Any, Mapping[str, Any]], int] = lambda config, params: 0
    takes_front: bool = False


def _encode_bert(
    config: BertConfig, params: Mapping[str, Any], rows: Rows
) -> Float[Array, "B S D"]:
    tokens_BxS = jnp.where(rows.attended, rows.tokens, config.pad_id)
    where = rows.prompt, rows.prompt_positions, rows.prompt_ids
    return bert.encode(config, params, tokens_BxS, rows.attended, *where)


def _encode_t5(config: T5Config, params: Mapping[str, Any], rows: Rows) -> Float[Array, "B S D"]:
    is_token_BxS = rows.attended
    places: dict[str, Any] = {}
    if rows.prompt is not None:
        params = with_prompt(params, rows.prompt)
        places = {"prompt_positions": rows.prompt_positions, "prompt_ids": rows.prompt_ids}
        is_token_BxS = is_token_BxS & (rows.prompt_positions < 0)
    network = t5.network_for(config, None if rows.prompt is None else rows.prompt.shape)
    return network.apply(
        {"params": params},
        jnp.where(is_token_BxS, rows.tokens, config.pad_id),
        enable_dropout=False,
        method="encode",
        **places,
    )


def _encode_causal(
    config: CausalConfig, params: Mapping[str, Any], rows: Rows
) -> Float[Array, "B S D"]:
    first, before = causal.prefix_length(config, params), None
    if rows.prompt is not None and rows.prompt_positions is None:
        before = front.through(config, params, rows.prompt, rows.prompt_ids)
        first += rows.prompt.shape[-2]
    causal.check_length(config, first + rows.tokens.shape[1])
    count_BxS = jnp.cumsum(rows.attended, axis=1, dtype=jnp.int32)
    position_BxS = first + jnp.maximum(count_BxS - 1, 0)
    keys = Places(jnp.where(rows.attended, position_BxS, NOWHERE))

    def memory(own: KeyValue, of_front: Any) -> tuple[list[Block], None]:
        prompt = [] if before is None else [before.block(of_front)]
        return [*prompt, Block(own, keys)], None

    x_BxSxD = causal.embedded(
        config,
        params,
        jnp.maximum(rows.tokens, 0),
        position_BxS,
        rows.prompt if before is None else None,
        rows.prompt_positions,
        rows.prompt_ids,
    )
    layers = None if before is None else before.layers
    x_BxSxD, _ = causal.through(config, params, x_BxSxD, Places(position_BxS), memory, layers)
    return norm(config, x_BxSxD, params["decoder"]["decoder_norm"])


_CAUSAL = Encoder(
    _encode_causal,
    causal_weights.abstract_variables,
    lambda name: name != causal_weights.OUTPUT,
    embedding_scale,
    causal.prefix_length,
    takes_front=True,
)

ENCODERS: Mapping[type, Encoder] = {
    BertConfig: Encoder(_encode_bert, bert_weights.abstract_variables, lambda name: True),
    T5Config: Encoder(
        _encode_t5,
        t5.abstract_variables,
        lambda name: name.startswith(("token_embedder/", "encoder/")),
    ),
    CausalConfig: _CAUSAL,
    BidirectionalConfig: _CAUSAL._replace(takes_front=False),
}


def encoder_of(config: Any) -> Encoder:
    """The kind of network that a config is of.

    Raises:
      ValueError: it is of none that embeds texts.
    """
    if type(config) not in ENCODERS:
        known = ", ".join(kind.__name__ for kind in ENCODERS)
        raise ValueError(
            f"A {type(config).__name__} embeds no texts here: use a model with one of {known}."
        )
    return ENCODERS[type(config)]
