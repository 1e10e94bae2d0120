"""Where a prompt stands in each row: a prompt position is data.

A layout turns rows of T tokens into rows of S = T + P positions:

    encoder_input_tokens  [B, S]  token ids, 0 at padding and at prompt positions
    prompt_positions      [B, S]  -1 at a token, i in 0..P-1 where row i of the prompt sits

Everything here works on numpy arrays (input pipeline) and on JAX arrays (inside jit).
"""

from collections.abc import Sequence
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

LAYOUTS = ("prefix", "after_bos", "suffix", "suffix_before_eos")
# What a prompt's positions may attend to; see `prompt_mask`.
VISIBILITIES = ("full", "causal", "self", "isolated", "isolated_causal", "isolated_self")

IntArray = Int[Array, "..."] | Int[np.ndarray, "..."]
BoolArray = Bool[Array, "..."] | Bool[np.ndarray, "..."]


def place_prompt(
    tokens_BxT: IntArray, prompt_length: int, layout: str = "prefix", eos_id: int = 1
) -> tuple[IntArray, IntArray]:
    """Makes room for a prompt of `prompt_length` positions in right-padded rows of tokens.

    `prefix` stands before the first token, `after_bos` right after it, `suffix` right after the
    row's last token, `suffix_before_eos` likewise but before an `eos_id` that ends the row.
    Padding stays at the end.

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
    cut_B = _cut(xp, tokens_BxT, layout, eos_id)
    return _spread(xp, tokens_BxT, cut_B[:, None], prompt_length, prompt_length)


def place_prompts(
    tokens_BxT: Int[np.ndarray, "batch tokens"],
    prompt_lengths_B: Int[np.ndarray, " batch"],
    layouts_B: Sequence[str],
    room: int,
    eos_id: int = 1,
) -> tuple[Int[np.ndarray, "batch length"], Int[np.ndarray, "batch length"]]:
    """`place_prompt` for rows whose prompts differ in length and layout.

    Args:
      prompt_lengths_B: the length of each row's prompt, at most `room`.
      layouts_B: the layout of each row's prompt.
      room: positions to add to every row; what a shorter prompt leaves is padding at the end.

    Returns:
      (encoder_input_tokens [B, S], prompt_positions [B, S]), S = T + room.
    """
    _check_tokens(tokens_BxT)
    layouts_B = np.asarray(layouts_B)
    cut_B = np.zeros(len(tokens_BxT), tokens_BxT.dtype)
    for layout in np.unique(layouts_B):
        rows = layouts_B == layout
        cut_B[rows] = _cut(np, tokens_BxT[rows], str(layout), eos_id)
    return _spread(np, tokens_BxT, cut_B[:, None], prompt_lengths_B[:, None], room)


def _check_tokens(tokens_BxT: IntArray) -> None:
    if tokens_BxT.ndim != 2 or tokens_BxT.shape[1] == 0 or tokens_BxT.dtype.kind not in "iu":
        raise ValueError(
            "place_prompt needs integer tokens of shape [batch, length], length 1 or more; "
            f"got {tokens_BxT.dtype}{list(tokens_BxT.shape)}."
        )


def _spread(
    xp: ModuleType,
    tokens_BxT: IntArray,
    cut_Bx1: IntArray,
    prompt_length: int | IntArray,
    room: int,
) -> tuple[IntArray, IntArray]:
    """One formula for every layout: tokens up to the cut, the prompt, then the other tokens."""
    T = tokens_BxT.shape[1]
    s_1xS = xp.arange(T + room, dtype=tokens_BxT.dtype)[None, :]
    row_BxS = s_1xS - cut_Bx1
    is_prompt_BxS = (row_BxS >= 0) & (row_BxS < prompt_length)
    source_BxS = xp.where(row_BxS < 0, s_1xS, s_1xS - prompt_length)
    moved_BxS = xp.take_along_axis(tokens_BxT, xp.clip(source_BxS, 0, T - 1), axis=1)
    is_token_BxS = ~is_prompt_BxS & (source_BxS < T)
    return xp.where(is_token_BxS, moved_BxS, 0), xp.where(is_prompt_BxS, row_BxS, -1)


def _cut(xp: ModuleType, tokens_BxT: IntArray, layout: str, eos_id: int) -> IntArray:
    """How many of a row's tokens stand before its prompt, [B]."""
    T = tokens_BxT.shape[1]
    place_1xT = xp.arange(1, T + 1, dtype=tokens_BxT.dtype)[None, :]
    length_B = xp.max(xp.where(tokens_BxT != 0, place_1xT, 0), axis=1)
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


def attended(tokens_BxS: IntArray, prompt_positions_BxS: IntArray | None = None) -> BoolArray:
    """True where a position holds a token or a prompt row, False at padding; [B, S]."""
    if prompt_positions_BxS is None:
        return tokens_BxS > 0
    return (tokens_BxS > 0) | (prompt_positions_BxS >= 0)


def prompt_mask(
    positions_BxQ: IntArray, positions_BxS: IntArray, visibility: str
) -> Bool[Array, "batch queries keys"]:
    """What prompt positions may attend to, True for every other query.

    Args:
      positions_BxQ, positions_BxS: `prompt_positions` of queries and keys.
      visibility: "full", "causal" or "self" of a prompt's own rows, after "isolated_" without
        the input; "isolated" is all of the prompt's rows and nothing else.
    """
    row_BxQx1, row_Bx1xS = positions_BxQ[:, :, None], positions_BxS[:, None, :]
    within = visibility.removeprefix("isolated").removeprefix("_") or "full"
    sees = {
        "full": row_Bx1xS >= 0,
        "causal": row_Bx1xS <= row_BxQx1,
        "self": row_Bx1xS == row_BxQx1,
    }
    sees_input = not visibility.startswith("isolated")
    of_prompt = ((row_Bx1xS >= 0) & sees[within]) | ((row_Bx1xS < 0) & sees_input)
    return (row_BxQx1 < 0) | of_prompt


def within_segments(
    mask_BxLxS: BoolArray, query_segments_BxL: IntArray | None, key_segments_BxS: IntArray | None
) -> BoolArray:
    """`mask`, and False between different packed examples where segment ids are given."""
    if query_segments_BxL is None or key_segments_BxS is None:
        return mask_BxLxS
    return mask_BxLxS & (query_segments_BxL[:, :, None] == key_segments_BxS[:, None, :])


def _numpy_of(array: IntArray) -> ModuleType:
    return jnp if isinstance(array, jax.Array) else np
