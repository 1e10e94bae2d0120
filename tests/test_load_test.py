"""The load test itself, at a size that says nothing of the server but that all of it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_part_runs(tmp_path):
    output = tmp_path / "load.json"
    parts = ["throughput", "offered", "overload", "right", "steady"]
    script = str(ROOT / "scripts/load_test.py")
    line = [sys.executable, script, "--output", output, "--requests", "60", "--minutes", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    subprocess.run([*line, "--parts", *parts], check=True, env=environment, cwd=tmp_path)
    found = json.loads(output.read_text())
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
