"""The shapes that the server's programs have, of which there are few: each of them is compiled.

B texts   S prompt and text   R slots   N prompts in the bank   P prompt   C labels   L tokens
"""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

# A way to read, beside the visibilities: behind prompts that see nothing of their text.
IN_FRONT = "in front"


class Shapes(NamedTuple):
    """All shapes that there are; what lies between two takes the larger one.

    Attributes:
      texts: B, how many are read at once.
      lengths: S, of prompt and text together.
      slots: R, how many texts are decoded at once; the last is how many slots there are.
      max_tokens: the most tokens that are generated, EOS included.
      labels: C, how many of a text's labels are scored at once.
      label_lengths: L, of labels.
      prompts: N, how many are on the devices at once.
      prompt_length: P, of the longest that there may be.
      front_lengths: S where what texts see of prompts in front is kept, if the family can; each
        has room for P, and the longest is that of `lengths`.
    """

    texts: tuple[int, ...]
    lengths: tuple[int, ...]
    slots: tuple[int, ...]
    max_tokens: int
    labels: int
    label_lengths: tuple[int, ...]
    prompts: int
    prompt_length: int
    front_lengths: tuple[int, ...] = ()

    def lengths_of(self, way: str) -> tuple[int, ...]:
        """S, where texts are read in such a way."""
        return self.front_lengths if way == IN_FRONT else self.lengths

    @property
    def kept_lengths(self) -> tuple[int, ...]:
        """S of what is kept of texts, for steps and to score labels.

        Each is a third of the next or less: a step copies what is kept of short texts, which pays
        for no more than that. Reading is most of the work, and has more lengths.
        """
        *shorter, longest = sorted({*self.lengths, *self.front_lengths})
        kept = [longest]
        for length in reversed(shorter):
            if 3 * length <= kept[0]:
                kept.insert(0, length)
        return tuple(kept)

    def check(self, parts: int) -> None:
        """Refuses lengths that do not end alike, and rows that a mesh cannot split into parts."""
        if self.front_lengths and self.front_lengths[-1] != self.lengths[-1]:
            raise ValueError(f"The longest of {self.lengths} and {self.front_lengths} differ.")
        if parts > 1 and (len(self.slots) > 1 or any(n % parts for n in self.texts + self.slots)):
            raise ValueError(
                f"A mesh that splits rows into {parts} needs one size of slots, and sizes that "
                f"divide: not texts {self.texts}, slots {self.slots}."
            )


def fitting(sizes: Sequence[int], size: int) -> int:
    """The smallest of some sizes that is large enough."""
    return sizes[bisect.bisect_left(sizes, size)]
