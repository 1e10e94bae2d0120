"""Kernels of our own for GPUs, interpreted, and the program that times them beside cuDNN's."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_attention

    return benchmark_attention


@pytest.mark.slow
def test_the_kernels_are_right_with_padded_rows_and_several_blocks(program):
    arrays = program.arrays_of(3, 2, 256, 32, jnp.float32)
    found = program.errors(functools.partial(program.of_pallas, interpret=True), arrays)
    assert len(found) == 4
    assert max(found) < 1e-5


@pytest.mark.slow
def test_a_bias_left_out_is_seen(program):
    def without(q, k, v, do, by_offset, seen):
        return program.of_pallas(q, k, v, do, 0 * by_offset, seen, interpret=True)

    found = program.errors(without, program.arrays_of(1, 2, 128, 32, jnp.float32))
    assert min(found) > 0.05


def test_the_fastest_blocks_count(program):
    seconds = {
        "cuDNN, lengths: forward": 1.0,
        "cuDNN, lengths: both": 3.5,
        "cuDNN, mask: forward": "it failed",
        "Pallas, a: forward": 2.0,
        "Pallas, b: forward": 1.5,
        "Pallas, a: dq": 1.0,
        "Pallas, b: dq": "it failed",
        "Pallas, a: dk, dv": 3.0,
        "Pallas, b: dk, dv": 2.0,
    }
    assert program.fastest(seconds) == {
        "cuDNN, lengths: forward": 1.0,
        "cuDNN, lengths: backward": 2.5,
        "Pallas: forward": 1.5,
        "Pallas: backward": 3.0,
    }


@pytest.mark.slow
def test_it_runs_at_a_tiny_size(tmp_path):
    output = tmp_path / "attention.json"
    command = [sys.executable, str(SCRIPTS / "benchmark_attention.py"), "--tiny", "--repeats=1"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([*command, f"--output={output}"], env=environment, check=True)
    found = json.loads(output.read_text())
    assert max(found["errors"]["Pallas"]) < 1e-5
    assert "cuDNN" in found["errors"]["cuDNN"]  # which a CPU has not
    assert found["fastest"]["Pallas: backward"] > 0
