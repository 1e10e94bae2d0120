"""A run killed at any moment and started again is the run that was never killed, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import xla_flags
from common import HANG, TAKE_SIGNALS

from prompt_tuning_jax import load_prompt

STEPS = 60


@pytest.fixture(scope="module")
def command(model_dir, tmp_path_factory):
    """The command line of a run, with dropout, evaluations and many checkpoints."""
    files = tiny.save_files(tmp_path_factory.mktemp("files"))
    settings = {
        "INITIAL_CHECKPOINT_PATH": model_dir,
        "DATA_DIR": files,
        "INPUT_TEMPLATE": "{text}",
        "VERBALIZERS": {"0": "yes", "1": "no"},
        "TASK_FEATURE_LENGTHS": tiny.LENGTHS,
        "BATCH_SIZE": 8,
        "PROMPT_LENGTH": 5,
        "TRAIN_STEPS": STEPS,
        "EVAL_PERIOD": 7,
        "CHECKPOINT_PERIOD": 3,
        "QUIET": True,
    }
    arguments = [f"--gin.{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "prompt_tuning_jax", "train", *arguments]


def begin(command, directory: Path) -> subprocess.Popen:
    directory.mkdir(exist_ok=True)
    with open(directory / "log", "a") as log:
        return subprocess.Popen(
            [*TAKE_SIGNALS, *command, f"--gin.MODEL_DIR={directory}"],
            env=os.environ | {"XLA_FLAGS": xla_flags.ONE_DEVICE, "JAX_PLATFORMS": "cpu"},
            stdout=log,
            stderr=log,
        )


def finish(command, directory: Path) -> int:
    return begin(command, directory).wait(HANG)


def steps(directory: Path) -> list[int]:
    """Steps of the complete states."""
    names = [path.name for path in (directory / "state").glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def interrupt(command, directory: Path, when, signum: int) -> int:
    """Starts the run, sends a signal as soon as `when()` holds, and returns the exit code."""
    process = begin(command, directory)
    deadline = time.monotonic() + HANG
    while not when() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signum)
    return process.wait(HANG)


def artefacts(directory: Path) -> dict[str, bytes]:
    files = ("best/prompt.safetensors", "last/prompt.safetensors", "history.json")
    kept = {str(p.relative_to(directory)): p.read_bytes() for p in directory.glob("prompts/*/*")}
    assert {int(Path(name).parts[1]) for name in kept} == {0, *range(7, STEPS, 7), STEPS}
    return {name: (directory / name).read_bytes() for name in files} | kept


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    assert finish(command, directory) == 0, (directory / "log").read_text()
    return directory


@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same(command, uninterrupted, tmp_path):
    def first_write() -> bool:
        return any((tmp_path / "state").glob("*/*"))

    def middle() -> bool:
        return any(step >= 24 for step in steps(tmp_path))

    assert interrupt(command, tmp_path, first_write, signal.SIGKILL) == -signal.SIGKILL
    assert interrupt(command, tmp_path, middle, signal.SIGKILL) == -signal.SIGKILL
    assert 24 <= steps(tmp_path)[-1] < STEPS
    assert finish(command, tmp_path) == 0, (tmp_path / "log").read_text()
    assert artefacts(tmp_path) == artefacts(uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=str)
def test_a_signal_saves_and_the_run_goes_on_from_there(command, uninterrupted, tmp_path, number):
    def begun() -> bool:
        return bool(steps(tmp_path))

    assert interrupt(command, tmp_path, begun, number) == 128 + number
    stopped = steps(tmp_path)[-1]
    assert 3 <= stopped < STEPS
    told = (tmp_path / "log").read_text()
    assert f"Stopped at step {stopped} of {STEPS}, saved; prompt-tuning train --gin." in told
    assert "Traceback" not in told
    assert not (tmp_path / "last").exists()
    assert finish(command, tmp_path) == 0, (tmp_path / "log").read_text()
    assert artefacts(tmp_path) == artefacts(uninterrupted)


@pytest.mark.slow
def test_a_mistake_is_one_line_and_an_exit_code(command, uninterrupted, tmp_path):
    answer = subprocess.run(
        [*command, f"--gin.MODEL_DIR={uninterrupted}", "--gin.BATCH_SIZE=4"],
        env=os.environ | {"XLA_FLAGS": xla_flags.ONE_DEVICE, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert answer.returncode == 1
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("error:")]
    assert "--batch_size was 8, now 4" in line
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_killed_again_and_again_it_ends_the_same(command, uninterrupted, tmp_path):
    chance = random.Random(0)
    for _ in range(6):
        goal = max(steps(tmp_path), default=0) + chance.randrange(1, 9)

        def far_enough(goal: int = goal) -> bool:
            return max(steps(tmp_path), default=0) >= goal

        interrupt(command, tmp_path, far_enough, signal.SIGKILL)
    assert finish(command, tmp_path) == 0, (tmp_path / "log").read_text()
    assert artefacts(tmp_path) == artefacts(uninterrupted)
    assert load_prompt(tmp_path / "best").shape[0] == 5
