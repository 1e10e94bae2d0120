"""Vectors as they are stored: in float32, in half of it, or in a quarter.

B batch   E numbers of a vector
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.errors import UsageError, spelled

DTYPES = ("float32", "float16", "int8")
_LARGEST = np.float32(127)


def checked_dtype(dtype: Any) -> np.dtype:
    """One of `DTYPES`.

    Raises:
      UsageError: it is none of them.
    """
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = None
    if name not in DTYPES:
        raise UsageError(f"{spelled('dtype')} must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    return np.dtype(name)


def as_dtype(vectors: Float[np.ndarray, "B E"], dtype: np.dtype) -> np.ndarray:
    """Vectors in a dtype; as int8 each is multiplied by 127 over its largest number.

    That keeps its direction, and so its cosine with others, and not its length.
    """
    if dtype != np.int8:
        return vectors.astype(dtype)
    largest_Bx1 = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), np.float32(1e-30))
    return np.rint(vectors * (_LARGEST / largest_Bx1)).astype(np.int8)
