"""Where the tokens of a row are: positions that count tokens and prompt rows, and no padding.

B batch   S prompt and text   L targets   R positions of a row
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from prompt_tuning_jax.models.causal.attention import NOWHERE, Places


def places(
    is_token_BxR: Bool[Array, "B R"], segments_BxR: Int[Array, "B R"] | None
) -> tuple[Places, Places]:
    """Where the positions of rows are as queries, and as keys.

    A query that is no token is where the last token before it is.
    """
    if segments_BxR is None:
        count_BxR = jnp.cumsum(is_token_BxR, axis=1, dtype=jnp.int32)
    else:
        before_RxR = jnp.tril(jnp.ones((is_token_BxR.shape[1],) * 2, bool))
        same_BxRxR = segments_BxR[:, :, None] == segments_BxR[:, None, :]
        counted_BxRxR = same_BxRxR & before_RxR[None] & is_token_BxR[:, None, :]
        count_BxR = jnp.sum(counted_BxRxR, axis=-1, dtype=jnp.int32)
    positions_BxR = count_BxR - 1
    keys_BxR = jnp.where(is_token_BxR, positions_BxR, NOWHERE)
    return Places(positions_BxR, segments_BxR), Places(keys_BxR, segments_BxR)


def starts(
    targets_BxL: Int[Array, "B L"], segments_BxL: Int[Array, "B L"] | None
) -> Bool[Array, "B L"]:
    """True at start tokens: at the first place, or the first of each example that is packed."""
    if segments_BxL is None:
        first_1xL = jnp.arange(targets_BxL.shape[1])[None, :] == 0
        return jnp.broadcast_to(first_1xL, targets_BxL.shape)
    before_BxL = jnp.pad(segments_BxL, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    return segments_BxL != before_BxL


def last_tokens(
    is_text_BxS: Bool[Array, "B S"],
    segments_BxS: Int[Array, "B S"] | None,
    segments_BxL: Int[Array, "B L"] | None,
    L: int,
) -> Int[Array, "B L"]:
    """For each of L targets, where in its row the last token of its text or prompt stands."""
    own_BxLxS = is_text_BxS[:, None, :]
    if segments_BxS is not None and segments_BxL is not None:
        own_BxLxS = own_BxLxS & (segments_BxL[:, :, None] == segments_BxS[:, None, :])
    place_1x1xS = jnp.arange(is_text_BxS.shape[1])[None, None, :]
    last_BxL = jnp.max(jnp.where(own_BxLxS, place_1x1xS, 0), axis=-1)
    return jnp.broadcast_to(last_BxL, (len(last_BxL), L))


def lengthened(prompt: Mapping[str, Any], L: int) -> dict[str, Any]:
    """Where the prompt's rows are in rows that go on for L targets; nothing that is None."""
    fill = {"prompt_positions": -1, "prompt_ids": 0}
    return {
        name: jnp.pad(x, ((0, 0), (0, L)), constant_values=fill[name]) if x.ndim == 2 else x
        for name, x in prompt.items()
        if x is not None
    }
