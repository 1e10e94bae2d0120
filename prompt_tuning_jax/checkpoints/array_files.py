"""Arrays in `.npy` and safetensors files that anybody may have written."""

import os
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open


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


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file, by their names.

    Raises:
      ValueError: it is corrupt or cut short, or of numbers that NumPy has not.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: read_tensor(file, name, path) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is corrupt or cut short ({error}). Fetch it again.") from error


def read_tensor(file: Any, name: str, path: str | os.PathLike) -> np.ndarray:
    """An array of an open safetensors file; a ValueError where its numbers are none of NumPy's."""
    try:
        return file.get_tensor(name)
    except AttributeError as error:  # NumPy has no such type
        stored = file.get_slice(name).get_dtype()
        raise ValueError(
            f"{path} holds {name} in numbers that are not read here ({stored}): save it as "
            "float32, float16 or bfloat16."
        ) from error
