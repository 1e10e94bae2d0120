"""The prompts on the devices: as many as there is room for; the least recently used leaves."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from prompt_tuning_jax.serving.shapes import fitting
from prompt_tuning_jax.tuned_prompt import TunedPrompt

NOWHERE = np.iinfo(np.int32).max  # a place that there is not
Write = Callable[[Sequence[TunedPrompt], Int[np.ndarray, " n"]], None]


class Wanted(NamedTuple):
    """A prompt by its name; a version is one of its values."""

    name: str
    version: int
    prompt: TunedPrompt


class Bank:
    """Which prompt is at which of the places of an array [places, P, D].

    A prompt has to be there while texts are read with it, and not longer: decoding and labels need
    only what was read.
    """

    def __init__(self, places: int):
        self._places = places
        self._held: OrderedDict[tuple[str, int], int] = OrderedDict()  # the oldest use first

    def __len__(self) -> int:
        return len(self._held)

    def places_of(self, wanted: Sequence[Wanted], write: Write) -> Int[np.ndarray, " n"]:
        """Where each prompt is, all of them at once.

        Args:
          write: puts those that were missing at their places.

        Raises:
          ValueError: there are more different prompts than places.
        """
        prompts = {(one.name, one.version): one.prompt for one in wanted}
        if len(prompts) > self._places:
            raise ValueError(
                f"{len(prompts)} prompts at once, and there are {self._places} places."
            )
        for key in prompts.keys() & self._held.keys():
            self._held.move_to_end(key)
        missing = {key: one for key, one in prompts.items() if key not in self._held}
        if missing:
            places = self._free(len(missing))
            write(list(missing.values()), np.array(places, np.int32))
            self._held.update(zip(missing, places, strict=True))
        keys = ((one.name, one.version) for one in wanted)
        return np.array([self._held[key] for key in keys], np.int32)

    def clear(self) -> None:
        """Nothing is on the devices any more."""
        self._held.clear()

    def _free(self, count: int) -> list[int]:
        """Places without a prompt, or whose prompts were used longest ago: these leave."""
        free = sorted(set(range(self._places)) - set(self._held.values()))[:count]
        while len(free) < count:
            _, place = self._held.popitem(last=False)
            free.append(place)
        return free


def padded(
    prompts: Sequence[TunedPrompt],
    places: Int[np.ndarray, " n"],
    counts: Sequence[int],
    length: int,
) -> Iterator[tuple[Float[np.ndarray, "n P D"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]]:
    """A few prompts at a time as arrays: values of `length` P, their own lengths, and places.

    Args:
      counts: how many there may be at a time; the smallest that is enough is taken.
    """
    for start in range(0, len(prompts), counts[-1]):
        some = prompts[start : start + counts[-1]]
        count = fitting(counts, len(some))
        values = np.zeros((count, length, some[0].shape[1]), np.float32)
        lengths, where = np.zeros(count, np.int32), np.full(count, NOWHERE, np.int32)
        where[: len(some)] = places[start : start + len(some)]
        for row, prompt in enumerate(some):
            lengths[row] = len(prompt.values)
            values[row, : lengths[row]] = prompt.values
        yield values, lengths, where
