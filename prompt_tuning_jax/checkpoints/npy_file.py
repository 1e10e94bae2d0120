"""An array in a `.npy` file that anybody may have written."""

import os

import numpy as np


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """The array, in C's order; memory is taken only for what the file really holds.

    Raises:
      ValueError: it is no `.npy` file, cut short, or of Python objects.
    """
    try:
        # What is mapped takes no memory, and numpy compares the shape with the file's size.
        with np.errstate(over="ignore"):
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.array(mapped, order="C")
    except Exception as error:  # numpy and Python's parser raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is a corrupt or unsafe .npy file ({reason}). Copy it again, or write it with "
            "numpy.save."
        ) from error
