"""measure_transfer.py: every start is measured, and what a record holds is not run again."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_start_is_measured_and_what_is_kept_is_not_again(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import measure_transfer as program

    output = tmp_path / "transfer.json"
    few = "--steps=2 --shared_steps=2 --seeds=1 --limit=4 --test_limit=4 --targets bundled_season"
    program.main([f"--output={output}", *few.split()])
    jobs = json.loads(output.read_text())["targets"]["bundled_season"]
    assert tuple(jobs) == program.STARTS
    (one,), (three,) = jobs["nearest"]["nearest"], jobs["nearest three"]["nearest"]
    assert (len(one), len(three)) == (1, 3)
    assert set(one) | set(three) <= set(program.SOURCES)
    assert jobs["distilled"]["nearest"] == [{}]
    assert str(tmp_path) not in output.read_text()
    monkeypatch.setattr(program, "job", None)
    capsys.readouterr()
    program.main([f"--output={output}", *few.split()])
    assert "distilled" in capsys.readouterr().out
