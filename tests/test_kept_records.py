"""Records of the measuring programs: shown and drawn without a run, and what pages say of them."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
# A program, and the page and heading under which its figures stand.
PROGRAMS = {
    "compare_recipes": ("scripts/results/README.md", "## Which recipe", "recipes"),
    "measure_transfer": (
        "prompt_tuning_jax/training/transfer/README.md",
        "## What another task's prompt is worth as a start",
        "transfer",
    ),
    "measure_recycling": (
        "prompt_tuning_jax/training/transfer/README.md",
        "## A prompt for another model",
        "recycling",
    ),
    "measure_privacy": (
        "prompt_tuning_jax/training/private/README.md",
        "## What it costs",
        "privacy",
    ),
}


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a program of scripts/ and returns what it printed, in one line without borders."""

    def run(name, *arguments):
        monkeypatch.syspath_prepend(SCRIPTS)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        return " ".join(re.sub("[^ -~\n]", " ", capsys.readouterr().out).split())

    return run


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_record_is_shown_and_drawn_without_a_run(name, run, tmp_path):
    record, picture = SCRIPTS / f"results/{PROGRAMS[name][-1]}.json", tmp_path / "picture.png"
    before = record.read_bytes()
    shown = run(name, "--show", "--output", record, "--plot", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert record.read_bytes() == before
    page, heading, _ = PROGRAMS[name]
    said = section((ROOT / page).read_text(), heading)
    scores = re.findall(r"\d+\.\d \(\d+\.\d\)", said)
    assert scores or name == "measure_recycling"
    assert [score for score in scores if score not in shown] == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_without_a_record_there_is_nothing_to_show(name, run, tmp_path):
    with pytest.raises(SystemExit, match="nothing"):
        run(name, "--show", "--output", tmp_path / "none.json")


def section(page, heading):
    """What stands below a heading, to the next of its level."""
    return page.split(f"\n{heading}\n")[1].split("\n## ")[0]
