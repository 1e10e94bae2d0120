"""Which numbers are sensible: bounds that several settings and Python keywords share.

A bound refuses what can only be a slip of the pen before any memory is taken for it. It is no
promise that what it allows fits: memory depends on the model, which `plan` knows.
"""

from typing import Any, NamedTuple

from prompt_tuning_jax.errors import UsageError


class Bounds(NamedTuple):
    """The least and the greatest number that something may be."""

    least: float
    most: float

    def check(self, name: str, value: Any) -> None:
        """Refuses, with a UsageError that names the bound, a number out of bounds, and NaN."""
        if value != value:
            raise UsageError(f"{name} must be a number, not {value}.")
        if value < self.least:
            raise UsageError(f"{name} must be at least {self.least}, got {value}.")
        if value > self.most:
            raise UsageError(f"{name} must be at most {self.most}, got {value}.")


# Steps and examples are counted in int32.
COUNT = Bounds(1, 2**31 - 1)
STEP = Bounds(0, 2**31 - 1)
# A key of JAX holds 32 bits of a seed; a greater one would be one of these again.
SEED = Bounds(0, 2**32 - 1)
# Rows of 512 int32 tokens: the largest batch is 128 MB of ids alone.
ROWS = Bounds(1, 2**16)
# No T5 reads further; one [S, S] array of float32 scores is 64 GB for each head at the end.
TOKENS = Bounds(1, 2**17)
# A text's least length, and the size of n-grams that come once; 0 for none.
FEWEST = Bounds(0, 2**17)
# A prompt is part of every row; more than this is longer than the text that it steers.
PROMPT_LENGTH = Bounds(0, 2**14)
# Each is a row of its own in every batch, with its own keys and values.
BEAMS = Bounds(1, 1024)
# A length to a greater power than 7 leaves float32.
LENGTH_PENALTY = Bounds(-7, 7)
# Beyond, softmax(logits / temperature) is uniform to float32's rounding.
TEMPERATURE = Bounds(0, 1e6)
# Beyond, a token that came before is all but certain, or all but impossible.
REPETITION_PENALTY = Bounds(1e-3, 1e3)
TOP_K = Bounds(0, 2**31 - 1)
# 0 would leave no token; the smallest leaves the likeliest one.
TOP_P = Bounds(1e-6, 1)
# A share of examples: some, and not all.
SHARE = Bounds(1e-6, 0.999999)
# The same, or nothing.
SHARE_OR_NONE = Bounds(0, 0.999999)
# Of a matrix that trains beside a prompt.
SIZE = Bounds(1, 2**16)
# What float32 holds; a step that is too large is found out, and told, when it is taken.
LEARNING_RATE = Bounds(0, 3e38)
# A share of the loss: beside a cross-entropy of 1 more is all that is trained on.
Z_LOSS = Bounds(0, 1)
# Of a device's memory: from less than the smallest model's step to more than any device has.
GIBIBYTES = Bounds(1e-6, 1e6)
# Of private training: a noise multiplier, and an epsilon. Beyond, noise is all, or next to none.
NOISE = Bounds(1e-2, 1e4)
# A gradient's norm: what float32 squares.
NORM = Bounds(1e-12, 1e12)
# How often something comes beside others, in proportion: examples of a task, say.
RATE = Bounds(1e-9, 1e12)
# A probability that is next to nothing; the accountant's own rounding is below it.
DELTA = Bounds(1e-12, 0.999999)
