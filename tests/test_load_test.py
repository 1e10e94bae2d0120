"""The load test itself, at a size that says nothing of the server but that all of it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(folder, *arguments):
    """The record of a load test."""
    output, script = folder / "load.json", str(ROOT / "scripts/load_test.py")
    line = [sys.executable, script, "--output", output, "--requests", "60", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    subprocess.run(line, check=True, env=environment, cwd=folder)
    return json.loads(output.read_text())


@pytest.mark.slow
def test_any_model_is_tried(tmp_path, model_dir):
    found = run(tmp_path, "--model", str(model_dir), "--parts", "throughput")
    assert [turn["statuses"] for turn in found["throughput"]["server"]] == [{"200": 60}] * 3


@pytest.mark.slow
def test_every_part_runs(tmp_path):
    parts = ["throughput", "offered", "overload", "right", "steady"]
    found = run(tmp_path, "--minutes", "1", "--parts", *parts)
    assert found["throughput"]["ratio"] > 1
    assert found["right"] == {"requests": 60, "lost": 0, "different": 0} | {
        "largest_gap": pytest.approx(0, abs=1e-4)
    }
    for turn in found["overload"]["three_times_as_much"]:
        assert set(turn["statuses"]) <= {"200", "429"}
    for kept in found["offered"]["shares"].values():
        assert set(kept["statuses"]) == {"200"}
    assert found["steady"]["statuses"]["200"] > 0
    assert found["steady"]["statuses"]["404"] > 0
    assert len(found["steady"]["memory_mb"]) == 1
