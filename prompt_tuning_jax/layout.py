"""Where a prompt stands in each row: a prompt position is data.

A layout turns rows of T tokens into rows of S = T + P positions:

    encoder_input_tokens  [B, S]  token ids, `pad_id` at padding and at prompt positions
    prompt_positions      [B, S]  -1 at a token or padding, i in 0..P-1 where row i of the prompt is

Everything here works on numpy arrays (input pipeline) and on JAX arrays (inside jit).

B batch   S joined length   T input tokens   P prompt length   L queries (targets, or S again)
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

LAYOUTS = ("prefix", "after_bos", "suffix", "suffix_before_eos")
# What a prompt's positions may attend to; see `prompt_mask`.
VISIBILITIES = ("full", "causal", "self", "isolated", "isolated_causal", "isolated_self")
# Padding, where a row's tokens may be any ids that there are.
NO_TOKEN = -1

AnyArray = Array | np.ndarray


def laid_out(
    batch: Mapping[str, Any],
    prompt_length: int,
    layout: str,
    visibility: str,
    eos_id: int,
    pad_id: int,
) -> tuple[AnyArray, dict[str, Any]]:
    """A batch's inputs [B, S] with room for a prompt, and, as keywords, where its rows are in them.

    A batch may say so itself, by `prompt_positions` and, for a bank, `prompt_ids`. Else `layout`
    says it, and a prompt that needs no room gets none (`needs_no_room`).

    Raises:
      ValueError: packed rows that do not say it.
    """
    tokens, ids = batch["encoder_input_tokens"], {"prompt_ids": batch.get("prompt_ids")}
    if "prompt_positions" in batch:
        return tokens, {"prompt_positions": batch["prompt_positions"], **ids}
    if "encoder_segment_ids" in batch:
        raise ValueError(
            "Packed rows need prompt_positions, to say where each example's prompt is: make them "
            "with `packing.pack`."
        )
    if needs_no_room(layout, visibility):
        return tokens, ids
    tokens, positions = place_prompt(tokens, prompt_length, layout, eos_id, pad_id)
    return tokens, {"prompt_positions": positions, **ids}


def place_prompt(
    tokens_BxT: Int[AnyArray, "B T"],
    prompt_length: int,
    layout: str = "prefix",
    eos_id: int = 1,
    pad_id: int = 0,
) -> tuple[Int[AnyArray, "B S"], Int[AnyArray, "B S"]]:
    """Makes room for a prompt of `prompt_length` positions in right-padded rows of tokens.

    The prompt goes before the first token (`prefix`), right after it (`after_bos`), right after the
    row's last token (`suffix`), or there but before an `eos_id` that ends the row
    (`suffix_before_eos`). Padding stays at the end.

    >>> place_prompt(np.array([[7, 8, 1, 0]]), 2, "suffix_before_eos")
    (array([[7, 8, 0, 0, 1, 0]]), array([[-1, -1,  0,  1, -1, -1]]))

    Returns:
      (encoder_input_tokens [B, S], prompt_positions [B, S]), S = T + prompt_length.

    Raises:
      ValueError: unknown layout, negative length, or tokens that are not [B, T] integers.
    """
    _check_tokens(tokens_BxT)
    if prompt_length < 0:
        raise ValueError(f"A prompt's length cannot be negative: {prompt_length}.")
    xp = _numpy_of(tokens_BxT)
    cut_B = _cut(xp, tokens_BxT, layout, eos_id, pad_id)
    return _spread(xp, tokens_BxT, cut_B[:, None], prompt_length, prompt_length, pad_id)


def place_prompts(
    tokens_BxT: Int[np.ndarray, "B T"],
    prompt_lengths_B: Int[np.ndarray, " B"],
    layouts_B: Sequence[str],
    room: int,
    eos_id: int,
    pad_id: int,
) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, "B S"]]:
    """`place_prompt` for rows whose prompts differ in length or layout.

    Args:
      prompt_lengths_B: the length of each row's prompt, at most `room`.
      layouts_B: the layout of each row's prompt.
      room: positions to add to every row; what a shorter prompt leaves is padding at the end.

    Returns:
      (encoder_input_tokens [B, S], prompt_positions [B, S]), S = T + room.

    Raises:
      ValueError: unknown layout, or tokens that are not [B, T] integers.
    """
    _check_tokens(tokens_BxT)
    layouts_B = np.asarray(layouts_B)
    cut_B = np.zeros(len(tokens_BxT), tokens_BxT.dtype)
    for layout in np.unique(layouts_B):
        rows = layouts_B == layout
        cut_B[rows] = _cut(np, tokens_BxT[rows], str(layout), eos_id, pad_id)
    return _spread(np, tokens_BxT, cut_B[:, None], prompt_lengths_B[:, None], room, pad_id)


def _check_tokens(tokens_BxT: AnyArray) -> None:
    if tokens_BxT.ndim != 2 or tokens_BxT.shape[1] == 0 or tokens_BxT.dtype.kind not in "iu":
        raise ValueError(
            "place_prompt needs integer tokens of shape [batch, length], length 1 or more; "
            f"got {tokens_BxT.dtype}{list(tokens_BxT.shape)}."
        )


def _spread(
    xp: ModuleType,
    tokens_BxT: Int[AnyArray, "B T"],
    cut_Bx1: Int[AnyArray, "B 1"],
    prompt_length: int | Int[AnyArray, "B 1"],
    room: int,
    pad_id: int,
) -> tuple[Int[AnyArray, "B S"], Int[AnyArray, "B S"]]:
    """One formula for every layout: tokens up to the cut, the prompt, then the other tokens."""
    T = tokens_BxT.shape[1]
    s_1xS = xp.arange(T + room, dtype=tokens_BxT.dtype)[None, :]
    row_BxS = s_1xS - cut_Bx1
    is_prompt_BxS = (row_BxS >= 0) & (row_BxS < prompt_length)
    source_BxS = xp.where(row_BxS < 0, s_1xS, s_1xS - prompt_length)
    moved_BxS = xp.take_along_axis(tokens_BxT, xp.clip(source_BxS, 0, T - 1), axis=1)
    is_token_BxS = ~is_prompt_BxS & (source_BxS < T)
    return xp.where(is_token_BxS, moved_BxS, pad_id), xp.where(is_prompt_BxS, row_BxS, -1)


def _cut(
    xp: ModuleType, tokens_BxT: Int[AnyArray, "B T"], layout: str, eos_id: int, pad_id: int
) -> Int[AnyArray, " B"]:
    """How many of a row's tokens stand before its prompt."""
    T = tokens_BxT.shape[1]
    place_1xT = xp.arange(1, T + 1, dtype=tokens_BxT.dtype)[None, :]
    length_B = xp.max(xp.where(tokens_BxT != pad_id, place_1xT, 0), axis=1)
    if layout == "prefix":
        return xp.zeros_like(length_B)
    if layout == "after_bos":
        return xp.minimum(length_B, 1)
    if layout == "suffix":
        return length_B
    if layout == "suffix_before_eos":
        is_last_BxT = place_1xT == length_B[:, None]
        ends_with_eos_B = xp.any(is_last_BxT & (tokens_BxT == eos_id), axis=1)
        return length_B - ends_with_eos_B.astype(length_B.dtype)
    raise ValueError(f"Unknown prompt layout {layout!r}: choose from {', '.join(LAYOUTS)}.")


def needs_no_room(layout: str, visibility: str) -> bool:
    """Whether a network may take a prompt apart from the tokens: isolated, before its input."""
    return layout == "prefix" and visibility.startswith("isolated")


def behind_prefix(mask_BxLxS: Bool[AnyArray, "#B #L S"], length: int) -> Bool[AnyArray, "#B #L _"]:
    """A mask with columns before it for positions that every query sees."""
    return jnp.pad(mask_BxLxS, ((0, 0), (0, 0), (length, 0)), constant_values=True)


def attended(
    tokens_BxS: Int[AnyArray, "B S"],
    prompt_positions_BxS: Int[AnyArray, "B S"] | None = None,
    pad_id: int = 0,
) -> Bool[AnyArray, "B S"]:
    """True where a position holds a token or a row of the prompt, False at padding."""
    if prompt_positions_BxS is None:
        return tokens_BxS != pad_id
    return (tokens_BxS != pad_id) | (prompt_positions_BxS >= 0)


def prompt_mask(
    positions_BxL: Int[AnyArray, "B L"], positions_BxS: Int[AnyArray, "B S"], visibility: str
) -> Bool[AnyArray, "B L S"]:
    """True where a query may attend to a key; limits only queries that are prompt positions.

    Args:
      positions_BxL, positions_BxS: `prompt_positions` of queries and keys.
      visibility: which of the prompt's rows a prompt position sees: all ("full"), itself and
        earlier ones ("causal") or itself ("self"). It sees the input too, unless the name begins
        with "isolated" ("isolated" alone is all of the prompt's rows and nothing else).
    """
    row_BxLx1, row_Bx1xS = positions_BxL[:, :, None], positions_BxS[:, None, :]
    within = visibility.removeprefix("isolated").removeprefix("_") or "full"
    sees = {
        "full": row_Bx1xS >= 0,
        "causal": row_Bx1xS <= row_BxLx1,
        "self": row_Bx1xS == row_BxLx1,
    }
    sees_input = not visibility.startswith("isolated")
    of_prompt = ((row_Bx1xS >= 0) & sees[within]) | ((row_Bx1xS < 0) & sees_input)
    return (row_BxLx1 < 0) | of_prompt


def within_segments(
    mask_BxLxS: Bool[AnyArray, "#B #L S"],
    query_segments_BxL: Int[AnyArray, "B L"] | None,
    key_segments_BxS: Int[AnyArray, "B S"] | None,
) -> Bool[AnyArray, "#B #L S"]:
    """`mask`, but False between different packed examples where segment ids are given."""
    if query_segments_BxL is None or key_segments_BxS is None:
        return mask_BxLxS
    return mask_BxLxS & (query_segments_BxL[:, :, None] == key_segments_BxS[:, None, :])


def _numpy_of(array: AnyArray) -> ModuleType:
    """The library to compute with: jax.numpy for JAX's arrays."""
    return jnp if isinstance(array, jax.Array) else np
