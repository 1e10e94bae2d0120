"""Rows of a batch, made into rows that are contiguous: tokens and prompt rows first, padding last.

An example's targets follow its text, wherever its padding was and however rows are packed, and what
predicts each target is the position before it.

B batch   S prompt and text   L targets   R positions of a row
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from prompt_tuning_jax.layout import attended
from prompt_tuning_jax.models.causal.attention import NOWHERE, Places


class Rows(NamedTuple):
    """Contiguous rows.

    Attributes:
      tokens: [B, R].
      prompt: where the prompt's rows are in them, as keywords of `prompts.join`; or nothing.
      queries, keys: where the positions are, as either. A query that is padding is where the last
        token before it is.
      sources: [B, L], the places in the rows from which the targets are predicted.
      has_text: [B, L], whether there is such a place: the first target may follow nothing.
    """

    tokens: Int[Array, "B R"]
    prompt: dict[str, Any]
    queries: Places
    keys: Places
    sources: Int[Array, "B L"]
    has_text: Bool[Array, "B L"]


def of_batch(
    tokens_BxS: Int[Array, "B S"],
    places: Mapping[str, Any],
    batch: Mapping[str, Any],
    pad_id: int,
    first: int | Int[Array, "B 1"],
) -> Rows:
    """Texts and targets joined; a start token is no position of a row.

    Args:
      places: where the prompt's rows are among the tokens.
      batch: the targets, and the segments of both if rows are packed.
      first: the position of an example's first token.
    """
    targets_BxL = batch["decoder_input_tokens"]
    segments_BxS, segments_BxL = (
        batch.get(f"{part}_segment_ids") for part in ("encoder", "decoder")
    )
    is_start_BxL = _starts(targets_BxL, segments_BxL)
    is_text_BxS = attended(tokens_BxS, places.get("prompt_positions"), pad_id)
    is_target_BxL = attended(targets_BxL, pad_id=pad_id) & ~is_start_BxL
    is_token_BxA = jnp.concatenate([is_text_BxS, is_target_BxL], axis=1)
    segments_BxA = None
    if segments_BxS is not None:
        segments_BxA = jnp.concatenate([segments_BxS, segments_BxL], axis=1)

    order_BxA = _order(is_token_BxA, segments_BxA)
    S, L = tokens_BxS.shape[1], targets_BxL.shape[1]
    last_BxL, has_text_BxL = _last_tokens(is_text_BxS, segments_BxS, segments_BxL, L)
    before_BxL = jnp.where(is_start_BxL, last_BxL, S + jnp.arange(L)[None, :])
    moved_to_BxA = jnp.argsort(order_BxA, axis=1)
    rows = _in_order(
        order_BxA[:, : S + L - 1],  # the first target is a start token, or padding
        jnp.concatenate([tokens_BxS, targets_BxL], axis=1),
        _lengthened(places, L),
        is_token_BxA,
        segments_BxA,
        first,
    )
    sources_BxL = jnp.take_along_axis(moved_to_BxA, before_BxL, axis=1)
    sources_BxL = jnp.minimum(sources_BxL, S + L - 2)  # of padding, which may have been cut off
    return rows._replace(sources=sources_BxL, has_text=~is_start_BxL | has_text_BxL)


def of_texts(
    tokens_BxS: Int[Array, "B S"],
    places: Mapping[str, Any],
    pad_id: int,
    first: int | Int[Array, "B 1"],
) -> Rows:
    """Texts alone, whose last token is what predicts the first target, [B, 1]."""
    is_text_BxS = attended(tokens_BxS, places.get("prompt_positions"), pad_id)
    where = {name: x for name, x in places.items() if x is not None and name != "front"}
    order_BxS = _order(is_text_BxS, None)
    rows = _in_order(order_BxS, tokens_BxS, where, is_text_BxS, None, first)
    count_Bx1 = jnp.sum(is_text_BxS, axis=1, keepdims=True, dtype=jnp.int32)
    return rows._replace(sources=jnp.maximum(count_Bx1 - 1, 0), has_text=count_Bx1 > 0)


def _order(
    is_token_BxA: Bool[Array, "B A"], segments_BxA: Int[Array, "B A"] | None
) -> Int[Array, "B A"]:
    """The places of the tokens, segment after segment, and then those of padding."""
    rank_BxA = jnp.zeros_like(is_token_BxA, jnp.int32) if segments_BxA is None else segments_BxA
    rank_BxA = jnp.where(is_token_BxA, rank_BxA, jnp.iinfo(jnp.int32).max)
    return jnp.argsort(rank_BxA, axis=1, stable=True)


def _in_order(
    order_BxR: Int[Array, "B R"],
    tokens_BxA: Int[Array, "B A"],
    prompt: Mapping[str, Any],
    is_token_BxA: Bool[Array, "B A"],
    segments_BxA: Int[Array, "B A"] | None,
    first: int | Int[Array, "B 1"],
) -> Rows:
    def moved(x):
        return jnp.take_along_axis(x, order_BxR, axis=1)

    is_token_BxR = moved(is_token_BxA)
    count_BxR = jnp.cumsum(is_token_BxR, axis=1, dtype=jnp.int32)
    segments_BxR = None
    if segments_BxA is not None:
        segments_BxR = moved(segments_BxA)
        # Those of the examples before it do not count.
        is_other_BxR = segments_BxR != jnp.pad(segments_BxR, ((0, 0), (1, 0)))[:, :-1]
        before_BxR = jnp.where(is_other_BxR, count_BxR - is_token_BxR.astype(jnp.int32), 0)
        count_BxR = count_BxR - jax.lax.cummax(before_BxR, axis=1)
    positions_BxR = first - 1 + count_BxR
    keys_BxR = jnp.where(is_token_BxR, positions_BxR, NOWHERE)
    return Rows(
        moved(tokens_BxA),
        {name: moved(x) if x.ndim == 2 else x for name, x in prompt.items()},
        Places(positions_BxR, segments_BxR),
        Places(keys_BxR, segments_BxR),
        order_BxR,
        is_token_BxR,
    )


def _starts(
    targets_BxL: Int[Array, "B L"], segments_BxL: Int[Array, "B L"] | None
) -> Bool[Array, "B L"]:
    """True at start tokens: at the first place, or the first of each example that is packed."""
    if segments_BxL is None:
        first_1xL = jnp.arange(targets_BxL.shape[1])[None, :] == 0
        return jnp.broadcast_to(first_1xL, targets_BxL.shape)
    before_BxL = jnp.pad(segments_BxL, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    return segments_BxL != before_BxL


def _last_tokens(
    is_text_BxS: Bool[Array, "B S"],
    segments_BxS: Int[Array, "B S"] | None,
    segments_BxL: Int[Array, "B L"] | None,
    L: int,
) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """For each of L targets, where its text's or prompt's last token is, and if there is one."""
    own_BxLxS = is_text_BxS[:, None, :]
    if segments_BxS is not None and segments_BxL is not None:
        own_BxLxS = own_BxLxS & (segments_BxL[:, :, None] == segments_BxS[:, None, :])
    place_1x1xS = jnp.arange(is_text_BxS.shape[1])[None, None, :]
    last_BxL = jnp.max(jnp.where(own_BxLxS, place_1x1xS, 0), axis=-1)
    has_text_BxL = jnp.any(own_BxLxS, axis=-1)
    shape = len(last_BxL), L
    return jnp.broadcast_to(last_BxL, shape), jnp.broadcast_to(has_text_BxL, shape)


def _lengthened(prompt: Mapping[str, Any], L: int) -> dict[str, Any]:
    """Where the prompt's rows are in rows that go on for L targets; nothing that is None."""
    fill = {"prompt_positions": -1, "prompt_ids": 0}
    return {
        name: jnp.pad(x, ((0, 0), (0, L)), constant_values=fill[name]) if x.ndim == 2 else x
        for name, x in prompt.items()
        if x is not None
    }
