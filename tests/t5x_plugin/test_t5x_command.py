"""The commands as a user types them: paths from here, files by their names in the package."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import t5x_runs
from common import HANG

pytestmark = pytest.mark.t5x

TINY = t5x_runs.TASK | t5x_runs.SHAPE


@pytest.fixture
def here(base, tmp_path):
    """A directory of a user's own, with the base checkpoint in it."""
    shutil.copytree(base, tmp_path / "checkpoints" / "bundled" / base.name)
    return tmp_path


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + HANG
    while not path.exists():
        assert process.poll() is None, "it ended early"
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


def test_a_killed_run_continues_as_if_it_had_not_been(here, base, tmp_path_factory):
    settings = (
        TINY
        | t5x_runs.SHORT
        | {
            "MODEL_DIR": "runs/sentiment",
            "INITIAL_CHECKPOINT_PATH": "checkpoints/bundled/checkpoint_3",
        }
    )
    model_dir = here / "runs" / "sentiment"
    files = (f"{t5x_runs.GIN}/experiments/bundled_sentiment.gin",)
    process = t5x_runs.start(here, "train", files, settings | {"TRAIN_STEPS": 100_000})
    try:
        wait_for(model_dir / "checkpoint_7", process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = max(int(path.name.split("_")[1]) for path in model_dir.glob("checkpoint_*[0-9]"))
    goal = reached + 6
    process = t5x_runs.start(here, "train", files, settings | {"TRAIN_STEPS": goal})
    t5x_runs.finish(process, here, "train")

    unbroken = tmp_path_factory.mktemp("unbroken")
    t5x_runs.train(unbroken, base, TRAIN_STEPS=goal)
    ours, theirs = (t5x_runs.prompt(d / f"checkpoint_{goal}") for d in (model_dir, unbroken))
    np.testing.assert_array_equal(ours, theirs)


def test_a_trained_prompt_is_used_from_the_command_line(here, run):
    shutil.copytree(run / "prompts", here / "runs" / "prompts")
    settings = TINY | {
        "INITIAL_CHECKPOINT_PATH": "checkpoints/bundled/checkpoint_3",
        "INFER_OUTPUT_DIR": "predictions",
        "PROMPT_FILE": "runs/prompts/15",
    }
    names = ("runs/infer", "models/bundled", "decoding/beam_search")
    files = [f"{t5x_runs.GIN}/{name}.gin" for name in names]
    t5x_runs.finish(t5x_runs.start(here, "infer", files, settings), here, "infer")
    (written,) = (here / "predictions").glob("*.jsonl-00000-of-00001")
    assert len(written.read_text().splitlines()) == 500


@pytest.mark.parametrize("traceback", [None, "1"])
def test_an_error_of_ours_ends_the_log_in_one_line(here, monkeypatch, traceback):
    """Where it was is shown if asked for; an error of somebody else's is shown as ever."""
    monkeypatch.delenv("PROMPT_TUNING_TRACEBACK", raising=False)
    if traceback:
        monkeypatch.setenv("PROMPT_TUNING_TRACEBACK", traceback)
    files = [f"{t5x_runs.GIN}/experiments/bundled_sentiment.gin"]
    settings = TINY | t5x_runs.SHORT | {"MODEL_DIR": "run", "PROMPT_INIT": "sampled_vocabluary"}
    settings["INITIAL_CHECKPOINT_PATH"] = "checkpoints/bundled/checkpoint_3"
    assert t5x_runs.start(here, "train", files, settings).wait(HANG) == 1
    log = (here / "train.log").read_text()
    last = log.splitlines()[-1]
    assert last.startswith(
        "error: PROMPT_INIT 'sampled_vocabluary' is none of uniform, sampled_voc"
    )
    assert ("Traceback (most recent call last)" in log) == bool(traceback)


def test_an_error_of_another_librarys_is_shown_whole(here):
    files = [f"{t5x_runs.GIN}/experiments/bundled_sentiment.gin"]
    settings = TINY | {"MODEL_DIR": "run", "RANDOM_SEED": "no number"}
    settings["INITIAL_CHECKPOINT_PATH"] = "checkpoints/bundled/checkpoint_3"
    assert t5x_runs.start(here, "train", files, settings).wait(HANG) == 1
    assert "Traceback (most recent call last)" in (here / "train.log").read_text()
