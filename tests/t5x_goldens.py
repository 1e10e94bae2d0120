"""Checkpoints that T5X wrote, and the weights that are in them."""

import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
from common import GOLDENS
from flax.traverse_util import flatten_dict

FLOAT32 = ("legacy", "orbax", "scanned_legacy", "scanned_orbax")
BFLOAT16 = ("legacy_bfloat16", "orbax_bfloat16")


def unpack(name: str, directory: Path) -> Path:
    """One of the checkpoints, unpacked into `directory`."""
    shutil.unpack_archive(GOLDENS / "t5x_checkpoints" / f"{name}.zip", directory)
    return directory / "checkpoint_3"


def weights(name: str = "legacy") -> dict[str, np.ndarray]:
    """The weights in a checkpoint, by T5X's flat names."""
    flat = dict(np.load(GOLDENS / "t5x" / "t5_network_params.npz"))
    dtype = ml_dtypes.bfloat16 if name in BFLOAT16 else np.float32
    return {key: value.astype(dtype) for key, value in flat.items()}


def assert_same(params, expected) -> None:
    """Bit for bit, with the same names and dtypes."""
    flat = flatten_dict(params, sep="/")
    assert flat.keys() == expected.keys()
    for name, value in expected.items():
        assert flat[name].dtype == value.dtype, name
        np.testing.assert_array_equal(flat[name], value, name)
