"""The end of a run of the tests says what was not run, and what runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = """
[pytest]
addopts = -p conftest -m "not slow"
markers =
    slow: x
    t5x: x
"""
PROGRAM = """
import pytest

@pytest.mark.parametrize("i", range(5))
@pytest.mark.skip("need a loom: LOOM=DIR")
def test_cloth(i): pass

@pytest.mark.skip("need luck")
def test_luck(): pass

@pytest.mark.slow
@pytest.mark.parametrize("i", range(3))
def test_patience(i): pass

def test_this(): pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["0", "2"])
def test_skipped_and_slow_tests_are_counted(tmp_path, processes):
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    (tmp_path / "test_weaving.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", processes],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
    )
    _, _, end = done.stdout.partition(" not run ")
    assert [line for line in end.splitlines()[1:] if line][:3] == [
        "5 need a loom: LOOM=DIR",
        "1 need luck",
        "3 are slow: scripts/test.sh -m slow",
    ]
