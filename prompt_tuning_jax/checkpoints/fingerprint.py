"""Which frozen model is this? A hash of its weights that a tuned prompt can be checked against."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np

from prompt_tuning_jax.devices.sharding import to_host
from prompt_tuning_jax.methods.adapters.choice import is_leaf
from prompt_tuning_jax.params import PROMPT_FOLDER, flatten


def fingerprint(params: Mapping[str, Any]) -> str:
    """sha256, in hex, over every weight's T5X name, shape and values; prompts, adapters left out.

    Values are rounded to bfloat16 first, so that one checkpoint has one fingerprint whether it is
    loaded as float32 or as bfloat16, and from whichever file format. All values count: about a
    second per billion on a few cores.
    """
    flat = flatten(params)
    # What is tuned is what changes; the fingerprint is of what does not.
    names = sorted(n for n in flat if not n.startswith(PROMPT_FOLDER) and not is_leaf(n))
    # Hashing releases the interpreter's lock; several hosts gather one weight after the other.
    together = all(getattr(flat[name], "is_fully_addressable", True) for name in names)
    with ThreadPoolExecutor(max_workers=4 if together else 1) as pool:
        lines = pool.map(lambda name: line(name, flat[name]), names)
        return of_lines(dict(zip(names, lines, strict=True)))


def of_lines(lines: Mapping[str, str]) -> str:
    """The fingerprint of the weights with these names and `line`s."""
    return hashlib.sha256("".join(lines[name] for name in sorted(lines)).encode()).hexdigest()


def line(name: str, weight: Any) -> str:
    """A weight's part in the fingerprint, where not all weights are in memory together."""
    values = np.ascontiguousarray(np.asarray(to_host(weight)).astype(ml_dtypes.bfloat16))
    digest = hashlib.sha256(values.view(np.uint16).tobytes()).hexdigest()
    return f"{name} {values.shape} {digest}\n"
