"""What the programs compute, as functions of arrays: reading, placing, one token more, and labels.

Decoding is the model family's own (`Family.read`, `Family.decode`), mapped over the slots of a
table, so that each slot has a cache index, and a place among its tokens, of its own.

R slots   B texts   S prompt and text   N prompts in the bank   C labels   L tokens   V vocabulary
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.decoding.constraints import constrained
from prompt_tuning_jax.decoding.generation import (
    Decode,
    empty_cache,
    known,
    label_log_probs,
    own_tokens,
)
from prompt_tuning_jax.decoding.options import GenerationSettings
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.family import NetworkConfig, family_of, front_family_of
from prompt_tuning_jax.params import with_prompt
from prompt_tuning_jax.serving import axes
from prompt_tuning_jax.serving.choosing import Wishes, choose, likeliest, mean_of_groups

AnyArray = Array | np.ndarray


class Rows(NamedTuple):
    """Texts laid out with their prompts; a row of padding alone is nothing."""

    tokens: Int[AnyArray, "B S"]
    prompt_positions: Int[AnyArray, "B S"]
    prompt_ids: Int[AnyArray, " B"]


class Behind(NamedTuple):
    """Texts behind prompts that went through the layers before; a length of 0 is no prompt."""

    tokens: Int[AnyArray, "B T"]
    prompt_lengths: Int[AnyArray, " B"]
    prompt_ids: Int[AnyArray, " B"]


class Next(NamedTuple):
    """A token of each row and its log-probability; beside it those of the likeliest tokens."""

    tokens: Int[AnyArray, " R"]
    log_probs: Float[AnyArray, " R"]
    top_tokens: Int[AnyArray, "R K"]
    top_log_probs: Float[AnyArray, "R K"]


class Standing(NamedTuple):
    """Of every slot the newest token, or the one that texts start with, and how many there are."""

    newest: Int[Array, " R"]
    count: Int[Array, " R"]


class Inputs(NamedTuple):
    """Texts that were read: what their family makes of them, and their own tokens."""

    read: Any
    own: tuple[Int[Array, "B S"], Bool[Array, "B S"]]


class TableAxes(NamedTuple):
    """Which axes of the table's leaves are what: `axes.that_grow`."""

    inputs: Any
    positions: Any
    cache: Any

    def homes(self, mesh: Mesh) -> dict[str, Any]:
        """Where what each program makes is: rows over the devices, the rest on each of them."""
        whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        of_all = self.inputs, axes.mapped(self.inputs), axes.mapped(self.cache)
        inputs, table, cache = (axes.split(tree, mesh) for tree in of_all)
        return {
            "write": whole,
            "keep": whole,
            "put": rows,
            "read": inputs,
            "extend": inputs,
            "place": (table, cache, rows),
            "step": (cache, rows, rows),
            "score": rows,
        }


def blank(config: NetworkConfig, texts: int, length: int) -> Rows:
    """Rows of padding alone."""
    tokens = np.full((texts, length), config.pad_id, np.int32)
    return Rows(tokens, np.full_like(tokens, -1), np.zeros(texts, np.int32))


def blank_behind(config: NetworkConfig, texts: int, length: int) -> Behind:
    """Rows of padding alone, behind no prompt."""
    tokens = np.full((texts, length), config.pad_id, np.int32)
    return Behind(tokens, *[np.zeros(texts, np.int32)] * 2)


def read(
    config: NetworkConfig, params: Mapping[str, Any], bank: Float[Array, "N P D"], rows: Rows
) -> Inputs:
    """Texts through the encoder, or, of a causal model, through all layers."""
    family = family_of(config)
    batch = {"encoder_input_tokens": jnp.asarray(rows.tokens)}
    batch |= {name: jnp.asarray(x) for name, x in rows._asdict().items() if name != "tokens"}
    params = with_prompt(params, bank)
    network, tokens, places = family.bind(config, params, batch, "prefix")
    own = own_tokens(tokens, rows.prompt_positions, config.pad_id)
    return Inputs(family.read(network, params, tokens, places), own)


def read_behind(
    config: NetworkConfig, longest: int, params: Mapping[str, Any], fronts: Any, rows: Behind
) -> Inputs:
    """The same of texts behind some of N prompts, of which `fronts` is what they see.

    Args:
      longest: P, for which there is room in what is read.
    """
    family, batch = family_of(config), {"encoder_input_tokens": jnp.asarray(rows.tokens)}
    network, tokens, places = family.bind(config, params, batch, "prefix")
    front = fronts, jnp.asarray(rows.prompt_ids), jnp.asarray(rows.prompt_lengths)
    read = family.read(network, params, tokens, {**places, "front": front})
    own = own_tokens(tokens, None, config.pad_id)
    return Inputs(read, tuple(jnp.pad(x, ((0, 0), (0, longest))) for x in own))


def fronts_of(
    config: NetworkConfig, params: Mapping[str, Any], prompts: int, prompt_length: int
) -> Any:
    """The shapes of what texts see of N prompts."""
    values = jax.ShapeDtypeStruct((prompts, prompt_length, config.emb_dim), jnp.float32)
    lengths = jax.ShapeDtypeStruct((prompts,), jnp.int32)
    in_front = functools.partial(front_family_of(config).in_front, config)
    return jax.eval_shape(in_front, params, values, lengths)


def keep(
    config: NetworkConfig,
    of_fronts: Any,
    params: Mapping[str, Any],
    fronts: Any,
    values: Float[AnyArray, "n P D"],
    lengths: Int[AnyArray, " n"],
    places: Int[AnyArray, " n"],
) -> Any:
    """`fronts`, with what texts behind some prompts see of them.

    Args:
      of_fronts: which axis of `fronts` is the prompts'.
      places: one that there is not is for no prompt.
    """
    given = jnp.asarray(values), jnp.asarray(lengths)
    new = front_family_of(config).in_front(config, params, *given)
    return axes.put(fronts, new, of_fronts, places)


def extend(of_table: TableAxes, length: int, inputs: Inputs, padding: Inputs) -> Inputs:
    """What was read, with padding behind it up to a length S.

    Args:
      padding: a row of padding alone that is at least as long.
    """
    row = axes.cut(padding, of_table.positions, length)
    return axes.extended(inputs, row, of_table.inputs, of_table.positions)


def fresh_cache(
    config: NetworkConfig, how: GenerationSettings, params: Mapping[str, Any], inputs: Inputs
) -> dict[str, Any]:
    """What is kept of each text's tokens, before there are any."""
    texts = len(inputs.own[0])
    decode = _decoder(config, params, inputs.read)
    cache = {"layers": empty_cache(decode, texts, how.max_length)}
    if how.constraints:
        nothing = jnp.zeros((texts, 1))
        cache["history"] = _constrained(config, how, inputs, (nothing, nothing[:, 0]))[1]["history"]
    return cache


def place(
    config: NetworkConfig,
    how: GenerationSettings,
    of_table: TableAxes,
    params: Mapping[str, Any],
    table: Inputs,
    cache: Any,
    standing: Standing,
    padding: Inputs,
    new: Inputs,
    slots: Int[AnyArray, " B"],
) -> tuple[Inputs, Any, Standing]:
    """The table, its cache and how slots stand, with texts that were read in some of them.

    Args:
      padding: a row of padding alone that is as long as the table's.
      slots: one that there is not is for no text.
    """
    new = axes.extended(new, padding, of_table.inputs, of_table.positions)
    fresh = fresh_cache(config, how, params, new)
    table = axes.put(table, new, of_table.inputs, slots)
    cache = axes.put(cache, fresh, of_table.cache, slots)
    newest = standing.newest.at[slots].set(how.start_id, mode="drop")
    count = standing.count.at[slots].set(0, mode="drop")
    return table, cache, Standing(newest, count)


def step(
    config: NetworkConfig,
    how: GenerationSettings,
    of_table: TableAxes,
    length: int,
    params: Mapping[str, Any],
    table: Inputs,
    cache: Any,
    standing: Standing,
    wishes: Wishes,
) -> tuple[Any, Standing, Next]:
    """The cache, how slots stand, and the next token of each of the first R slots.

    Args:
      length: S, of which no text in these slots is longer.
      wishes: of these R.
    """
    R = len(wishes.seed)
    rows = axes.first(table, of_table.inputs, R)
    some = axes.cut(rows, of_table.positions, length)
    before = axes.first(cache, of_table.cache, R)
    newest_R, count_R = standing.newest[:R], standing.count[:R]
    mapped = axes.mapped(of_table.inputs.read), axes.mapped(of_table.cache["layers"])

    def one(read, cache, token):
        read = axes.with_axis(read, of_table.inputs.read)
        cache = axes.with_axis(cache, of_table.cache["layers"])
        decode = _decoder(config, params, read)
        logits, cache = decode(token[None, None], cache=cache, max_decode_length=how.max_length)
        return logits[0, 0], axes.without_axis(cache, of_table.cache["layers"])

    logits_RxV, layers = jax.vmap(one, (*mapped, 0), (0, mapped[1]))(
        some.read, before["layers"], newest_R
    )
    log_probs_RxV = jax.nn.log_softmax(logits_RxV)
    log_z_R = (logits_RxV - log_probs_RxV)[:, :1]
    log_probs_RxV = mean_of_groups(log_probs_RxV, wishes.group)
    changed = {"layers": layers}
    if how.constraints:
        scores = log_probs_RxV, mean_of_groups(log_z_R, wishes.group)[:, 0]
        keep_to = jax.vmap(functools.partial(_kept_to, config, how))
        log_probs_RxV, changed["history"] = keep_to(
            rows.own, before["history"], newest_R, count_R, scores
        )
    chosen_R = choose(log_probs_RxV, wishes, count_R)
    gain_R = jnp.take_along_axis(log_probs_RxV, chosen_R[:, None], axis=1)[:, 0]
    found = Next(chosen_R, gain_R, *likeliest(log_probs_RxV, wishes))
    stand = Standing(standing.newest.at[:R].set(chosen_R), standing.count.at[:R].add(1))
    return axes.put_first(cache, changed, of_table.cache), stand, found


def score(
    config: NetworkConfig,
    params: Mapping[str, Any],
    inputs: Inputs,
    labels: Int[AnyArray, "B C L"],
) -> Float[Array, "B C"]:
    """Log-probabilities of labels, each text's own, after texts that were read."""
    decode = _decoder(config, params, inputs.read)

    def of_labels(labels_BxL):
        return label_log_probs(decode, labels_BxL, config)

    return jax.vmap(of_labels, in_axes=1, out_axes=1)(jnp.asarray(labels))


def _decoder(config: NetworkConfig, params: Mapping[str, Any], read: Any) -> Decode:
    """`decode` after texts that were read: nothing is left in it to know of prompts."""
    family = family_of(config)
    batch = {"encoder_input_tokens": blank(config, 1, 1).tokens}
    network, *_ = family.bind(config, params, batch, "prefix")
    return functools.partial(family.decode, network, params, read)


def _constrained(config, how, inputs, scores):
    """A step that keeps to the model's own rules, and the cache it starts with."""
    return constrained(
        lambda cache, _: (*scores, cache),
        {},
        how.constraints,
        of_logits=True,
        eos_ids=how.eos_ids,
        max_length=how.max_length,
        **known(*inputs.own, how.start_id, config.continues_inputs),
    )


def _kept_to(config, how, own, history, token, index, scores):
    """One row's log-probabilities as the model's rules have them, and its tokens so far."""
    one = jax.tree.map(lambda x: x[None], (own, history, token, scores))
    own, history, token, scores = one
    follow, _ = _constrained(config, how, Inputs(None, own), scores)
    log_probs, cache = follow({"own": {}, "history": history, "index": index}, token)
    return log_probs[0], cache["history"][0]
