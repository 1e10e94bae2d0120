"""Packing: several examples in a row, each with its own copy of its prompt.

A packed batch trains on the examples of a padded one, with the same loss and gradients to rounding,
in fewer rows:

    encoder_input_tokens   [R, S]   examples one behind the other, `pad_id` at padding and prompts
    prompt_positions       [R, S]   each example's prompt, laid out as in a row of its own
    encoder_segment_ids    [R, S]   1, 2, ... for the row's examples, 0 at padding
    decoder_input_tokens   [R, L]   their targets, in the same order, each after `start_id`
    decoder_target_tokens  [R, L]
    decoder_loss_weights   [R, L]
    decoder_segment_ids    [R, L]   the example that each target belongs to

No segment sees another and T5's positions are relative, so an example cannot tell that it is not
alone. Only dropout can: T5 draws it for a whole row at a time, which its examples then share.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from prompt_tuning_jax.data.batches import Pair, TrainBatches
from prompt_tuning_jax.data.encoding import TARGET_BUCKETS, Batch, Tokens
from prompt_tuning_jax.data.task import Source
from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.vocabularies import T5_IDS, SpecialIds, Vocabulary

ROW_COUNTS = 16  # how many numbers of rows a batch may have, since each is a program to compile
TOKENS = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens", "tokens")
Rows = list[list[int]]
"""The examples of each row, by number."""


def padding(name: str, pad_id: int) -> int:
    """What stands where an array of a batch holds nothing."""
    if name in TOKENS:
        return pad_id
    return -1 if name == "prompt_positions" else 0


class Shape(NamedTuple):
    """R, S and L of a packed batch."""

    rows: int
    inputs: int
    targets: int


class PackedBatches(TrainBatches):
    """Endless packed training batches of one source, epoch after epoch.

    A batch is the next `batch_size` examples in the source's order, exactly those that
    `TrainBatches` gives where it pads everything to the maximum, in about as few rows as hold them.
    The longest input and its prompt just fill a row. Of a few allowed shapes (rows, length of the
    targets) a batch has the one with the fewest positions. The state, what a host reads and the
    counts are `TrainBatches`'s.

    Args:
      batch_size: examples in a batch, however many rows they take.
      lengths: the longest `{"inputs": T, "targets": L}` of one example, EOS included.
      prompt_length: P, the positions of each example's prompt; 0 for none.
      layout: where an example's prompt stands among its tokens.
      row_multiple: the number of rows is a multiple of this.
    """

    def __init__(
        self,
        source: Source,
        vocabulary: Vocabulary,
        *,
        batch_size: int,
        lengths: Mapping[str, int],
        seed: int | None,
        prompt_length: int,
        layout: str = "prefix",
        row_multiple: int = 1,
    ):
        super().__init__(
            source,
            vocabulary,
            batch_size=batch_size,
            lengths=lengths,
            seed=seed,
            buckets={"inputs": (), "targets": ()},
        )
        self._row_length = lengths["inputs"] + prompt_length
        self._row_counts = row_counts(batch_size, row_multiple)
        self._target_lengths = sorted({*TARGET_BUCKETS, *self._encoder.buckets["targets"]})
        self._prompt_length, self._layout = prompt_length, layout
        self._special = vocabulary.special

    def assemble(self, pairs: Sequence[Pair]) -> Batch:
        sizes = [
            (inputs + self._prompt_length, targets)
            for inputs, targets in (pair.sizes for pair in pairs)
        ]
        rows, shape = arrange(sizes, self._row_length, self._target_lengths, self._row_counts)
        own = set(self._own_rows(shape.rows))
        rows = [members if number in own else [] for number, members in enumerate(rows)]
        tokens = {i: pairs[i].tokens() for members in rows for i in members}
        return pack(tokens, rows, shape, self._prompt_length, self._layout, self._special)


def row_counts(batch_size: int, multiple: int = 1) -> list[int]:
    """How many rows a packed batch may have: evenly spaced, the last with a row for each example.

    >>> row_counts(32, 4)
    [4, 8, 12, 16, 20, 24, 28, 32]
    """
    step = multiple * math.ceil(batch_size / (multiple * ROW_COUNTS))
    return [step * i for i in range(1, math.ceil(batch_size / step) + 1)]


def arrange(
    sizes: Sequence[tuple[int, int]],
    row_length: int,
    target_lengths: Sequence[int],
    row_counts: Sequence[int],
) -> tuple[Rows, Shape]:
    """Which examples share a row, and the shape of the batch.

    Both lengths limit a row. Longer targets allow fewer rows; of all `target_lengths` the one with
    the fewest positions to compute, R * (S + L), is taken.

    Args:
      sizes: each example's positions in the encoder, its prompt among them, and in the decoder.
      target_lengths, row_counts: what L and R may be, ascending.
    """
    found = []
    for length in target_lengths[bisect.bisect_left(target_lengths, max(t for _, t in sizes)) :]:
        rows = first_fit(sizes, (row_length, length))
        count = row_counts[bisect.bisect_left(row_counts, len(rows))]
        found.append((rows, Shape(count, row_length, length)))
    return min(found, key=lambda choice: choice[1].rows * sum(choice[1][1:]))


def first_fit(sizes: Sequence[tuple[int, int]], room: tuple[int, int]) -> Rows:
    """Largest first, each example goes to the first row that has room for it.

    An example is as large as its share of whichever room it fills more.
    """
    shares = [max(inputs / room[0], targets / room[1]) for inputs, targets in sizes]
    rows: Rows = []
    left: list[tuple[int, int]] = []
    for example in sorted(range(len(sizes)), key=lambda i: -shares[i]):
        inputs, targets = sizes[example]
        fits = (row for row, (s, t) in enumerate(left) if inputs <= s and targets <= t)
        if (row := next(fits, len(rows))) == len(rows):
            rows.append([])
            left.append(room)
        rows[row].append(example)
        left[row] = (left[row][0] - inputs, left[row][1] - targets)
    return rows


def pack(
    pairs: Mapping[int, tuple[Tokens, Tokens]] | Sequence[tuple[Tokens, Tokens]],
    rows: Rows,
    shape: Shape,
    prompt_length: int,
    layout: str = "prefix",
    special: SpecialIds = T5_IDS,
    prompt_ids: Sequence[int] | None = None,
) -> Batch:
    """The batch in which row r holds the examples `rows[r]`; rows beyond those given stay empty.

    Args:
      pairs: (inputs, targets) of each example.
      special: the vocabulary's.
      prompt_ids: the prompt of each example, where the model has a bank of them; the batch then
        has `prompt_ids` [R, S] too.
    """
    batch = _empty(shape, prompt_ids is not None, special.pad)
    for row, members in enumerate(rows):
        inputs = targets = 0
        for number, i in enumerate(members, 1):
            part = _segment(pairs[i], number, prompt_length, layout, special)
            if prompt_ids is not None:
                part["prompt_ids"] = np.full_like(part["prompt_positions"], prompt_ids[i])
            for name, values in part.items():
                start = targets if name.startswith("decoder") else inputs
                batch[name][row, start : start + len(values)] = values
            inputs += len(part["encoder_input_tokens"])
            targets += len(part["decoder_input_tokens"])
    return batch


def _empty(shape: Shape, has_prompt_ids: bool, pad_id: int) -> Batch:
    def empty(name: str, length: int) -> np.ndarray:
        return np.full((shape.rows, length), padding(name, pad_id), np.int32)

    names = ["encoder_input_tokens", "prompt_positions", "encoder_segment_ids"]
    names += ["prompt_ids"] * has_prompt_ids
    inputs = {name: empty(name, shape.inputs) for name in names}
    names = ["decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids"]
    targets = {name: empty(name, shape.targets) for name in names}
    weights = np.zeros((shape.rows, shape.targets), np.float32)
    return inputs | targets | {"decoder_loss_weights": weights}


def _segment(
    pair: tuple[Tokens, Tokens], number: int, prompt_length: int, layout: str, special: SpecialIds
) -> Batch:
    """One example's part of its row."""
    inputs, targets = (np.array([tokens], np.int32) for tokens in pair)
    tokens_1xS, positions_1xS = place_prompt(
        inputs, prompt_length, layout, special.eos, special.pad
    )
    return {
        "encoder_input_tokens": tokens_1xS[0],
        "prompt_positions": positions_1xS[0],
        "encoder_segment_ids": np.full_like(tokens_1xS[0], number),
        "decoder_input_tokens": np.pad(targets[0, :-1], (1, 0), constant_values=special.start),
        "decoder_target_tokens": targets[0],
        "decoder_loss_weights": np.ones(targets.shape[1], np.float32),
        "decoder_segment_ids": np.full_like(targets[0], number),
    }
