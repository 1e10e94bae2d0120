"""An array file of anybody's: read if it is what its header says, and refused before any memory."""

import json
import struct
import warnings

import numpy as np
import pytest

from prompt_tuning_jax import load_prompt
from prompt_tuning_jax.checkpoints.array_files import read_npy, read_tensors


def written(path, header, body=b"\0" * 64):
    header = header.encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body)
    return path


def header(shape, dtype="'<f4'", fortran=False):
    return f"{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<i4"])
def test_what_numpy_writes_is_read_in_cs_order(tmp_path, order, dtype):
    values = np.arange(6).reshape(2, 3).astype(dtype, order=order)
    np.save(tmp_path / "a.npy", values)
    found = read_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, values)
    assert found.flags.c_contiguous
    assert type(found) is np.ndarray


@pytest.mark.parametrize(
    "text",
    [
        header("(10**9, 4)"),
        header("(1000000000, 1000)"),
        header("(10000000000000, 100000000)"),
        header("(4294967296, 4294967296)"),
        header("(9223372036854775807, 3)"),
        header("(4, 5)"),  # one row more than there is
        header("(-1, 4)"),
        header("4"),
        header("('a', 4)"),
        header("(4, 4.0)"),
        header("(2, 2)", dtype="'|O'"),
        header("(2, 2)", dtype="'no'"),
        "{'descr': '<f4', 'fortran_order': 3}",
        "__import__('os').abort()",
        "[" * 2000,
        "",
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(tmp_path, text):
    path = written(tmp_path / "a.npy", text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"a\.npy is a corrupt or unsafe \.npy file") as found:
            load_prompt(path)
    assert len(str(found.value)) < 400


@pytest.mark.parametrize("size", [7, 20, 100])
def test_what_is_cut_short_is_refused(tmp_path, size):
    np.save(tmp_path / "a.npy", np.ones((4, 4), np.float32))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:size])
    with pytest.raises(ValueError, match="corrupt or unsafe"):
        load_prompt(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("kind", "bits"), [("F8_E4M3", 8), ("F8_E5M2", 8), ("F8_E8M0", 8), ("F4", 4)]
)
@pytest.mark.parametrize("read", [read_tensors, load_prompt])
def test_numbers_that_numpy_has_not_are_named(tmp_path, kind, bits, read):
    tensor = {"dtype": kind, "shape": [2, 8], "data_offsets": [0, 2 * bits]}
    header = json.dumps({"prompt": tensor}).encode()
    path = tmp_path / "prompt.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(2 * bits))
    with pytest.raises(ValueError, match=rf"prompt in numbers that are not read here \({kind}\)"):
        read(path)
