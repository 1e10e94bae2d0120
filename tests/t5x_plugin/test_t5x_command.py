"""The commands as a user types them: paths from here, files by their names in the package."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import t5x_runs
from common import HANG

pytestmark = pytest.mark.t5x


@pytest.fixture
def here(base, tmp_path):
    """A directory of a user's own, with the base checkpoint in it."""
    shutil.copytree(base, tmp_path / "checkpoints" / "bundled" / base.name)
    return tmp_path


def start(here: Path, program: str, *files: str, **bindings) -> subprocess.Popen:
    settings = t5x_runs.TASK | t5x_runs.SHAPE | bindings
    command = [sys.executable, "-m", f"t5x.{program}"]
    command += [f"--gin_file={t5x_runs.GIN}/{file}" for file in files]
    command += [f"--gin.{name}={value!r}" for name, value in settings.items()]
    environment = os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    with open(here / f"{program}.log", "a") as log:
        return subprocess.Popen(command, cwd=here, env=environment, stdout=log, stderr=log)


def finish(process: subprocess.Popen, here: Path, program: str) -> None:
    assert process.wait(HANG) == 0, (here / f"{program}.log").read_text()[-2000:]


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + HANG
    while not path.exists():
        assert process.poll() is None, "it ended early"
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


def test_a_killed_run_continues_as_if_it_had_not_been(here, base, tmp_path_factory):
    settings = t5x_runs.SHORT | {
        "MODEL_DIR": "runs/sentiment",
        "INITIAL_CHECKPOINT_PATH": "checkpoints/bundled/checkpoint_3",
    }
    model_dir = here / "runs" / "sentiment"
    files = ("experiments/bundled_sentiment.gin",)
    process = start(here, "train", *files, **settings | {"TRAIN_STEPS": 100_000})
    try:
        wait_for(model_dir / "checkpoint_7", process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = max(int(path.name.split("_")[1]) for path in model_dir.glob("checkpoint_*[0-9]"))
    goal = reached + 6
    finish(start(here, "train", *files, **settings | {"TRAIN_STEPS": goal}), here, "train")

    unbroken = tmp_path_factory.mktemp("unbroken")
    t5x_runs.train(unbroken, base, TRAIN_STEPS=goal)
    ours, theirs = (t5x_runs.prompt(d / f"checkpoint_{goal}") for d in (model_dir, unbroken))
    np.testing.assert_array_equal(ours, theirs)


def test_a_trained_prompt_is_used_from_the_command_line(here, run):
    shutil.copytree(run / "prompts", here / "runs" / "prompts")
    settings = {
        "INITIAL_CHECKPOINT_PATH": "checkpoints/bundled/checkpoint_3",
        "INFER_OUTPUT_DIR": "predictions",
        "PROMPT_FILE": "runs/prompts/15",
    }
    files = ("runs/infer.gin", "models/bundled.gin", "decoding/beam_search.gin")
    finish(start(here, "infer", *files, **settings), here, "infer")
    (written,) = (here / "predictions").glob("*.jsonl-00000-of-00001")
    assert len(written.read_text().splitlines()) == 500
