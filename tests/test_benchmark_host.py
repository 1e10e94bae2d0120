"""benchmark_host.py on a few examples; what it measures is not looked at."""

import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def host(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_host

    monkeypatch.setattr(benchmark_host, "MADE_UP", 40)
    return benchmark_host


@pytest.mark.slow
def test_every_stage_has_a_rate_on_files_and_on_made_up_prose(host, monkeypatch, tmp_path):
    (tmp_path / "RTE").mkdir()
    record = {"premise": "It rained all day.", "hypothesis": "It rained.", "label": "entailment"}
    (tmp_path / "RTE" / "train.jsonl").write_text(f"{json.dumps(record)}\n" * 20)
    monkeypatch.setattr(host, "FILES", {"RTE": host.FILES["RTE"]})
    output = tmp_path / "host.json"
    sizes = ["--batch=4", "--inputs=64", "--repeats=2"]
    arguments = [*sizes, f"--data_dir={tmp_path}", "--made_up", "wic", f"--output={output}"]
    monkeypatch.setattr(sys, "argv", ["benchmark_host.py", *arguments])
    host.main()
    results = json.loads(output.read_text())
    assert results["settings"]["batch"] == 4
    assert list(results["sources"]) == ["RTE", "wic, made up"]
    for figures, count in zip(results["sources"].values(), (20, 40), strict=True):
        assert figures["examples"] == count
        assert {"read", "tokenise", "again", "batch", "transfer"} < set(figures["stages"])
        for stage in figures["stages"].values():
            assert stage["tokens_per_second"] > stage["examples_per_second"] > 0
        assert 4 < figures["tokens_per_example"] < figures["positions_per_example"] + 8


def test_what_is_needed_counts_the_prompt_too(host):
    args = host.parse_arguments(["--positions_per_second=3000", "--prompt=100"])
    epoch = {"examples": 100, "tokens_per_example": 40, "positions_per_example": 50}
    first, again = [(1.0, 1.0), (3.0, 3.0)], (2.0, 0.5)  # by the clock, and of processors
    turns = [{"whole": each, "whole again": again} for each in first]
    found = host.summarise(turns, epoch, args)
    assert found["examples_needed"] == 20
    assert found["stages"]["whole again"]["examples_per_second"] == 50
    assert found["times_needed"] == {"whole": 2.5, "whole again": 10}
