"""A disk that is full, or gone: one sentence, and what was written before stays whole."""

import contextlib
import errno
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import xla_flags

from prompt_tuning_jax import load_prompt, save_prompt, train
from prompt_tuning_jax.checkpoints import atomic
from prompt_tuning_jax.checkpoints.atomic import WriteError
from prompt_tuning_jax.checkpoints.run_state import RunState
from prompt_tuning_jax.training.scalars import ScalarWriter

VALUES = np.ones((20, 16), np.float32)


@contextlib.contextmanager
def files_of_at_most(size):
    """The kernel refuses to write more into any file; nothing is printed into one meanwhile."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def files(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*.*")}


def test_a_prompt_that_cannot_be_written_leaves_the_one_before(tmp_path):
    save_prompt(tmp_path / "p", VALUES, task="before")
    before = files(tmp_path)
    words = r"p/prompt\.safetensors cannot be written \(File too large\)\. What was there"
    with files_of_at_most(100), pytest.raises(WriteError, match=words):
        save_prompt(tmp_path / "p", 2 * VALUES, task="after")
    assert files(tmp_path) == before
    assert load_prompt(tmp_path / "p").metadata["task"] == "before"


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS"])
def test_errors_of_a_disk_are_told_in_its_words(tmp_path, monkeypatch, name):
    number = getattr(errno, name)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    (tmp_path / "file").write_text("before")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(WriteError, match=rf"file cannot be written \({os.strerror(number)}\)"):  # noqa: SIM117
        with atomic.new_file(tmp_path / "file") as partial:
            partial.write_text("after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"


def test_an_error_of_what_is_read_meanwhile_is_not_taken_for_one_of_the_disk(tmp_path):
    with pytest.raises(FileNotFoundError, match="no/such/file"), atomic.new_file(tmp_path / "f"):
        open("no/such/file").close()


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path):
    arrays = {"prompt": jnp.asarray(VALUES)}
    with contextlib.closing(RunState(tmp_path, {})) as state:
        state.save(1, arrays, best={"step": 1})

    def save():
        state = RunState(tmp_path, {})
        state.save(2, {"prompt": 2 * arrays["prompt"]}, best={"step": 2})
        state.close()

    words = r"state cannot be written \(File too large\)"
    with files_of_at_most(100), pytest.raises(WriteError, match=words):
        save()
    with contextlib.closing(RunState(tmp_path, {})) as state:
        assert state.latest_step() == 1
        restored, meta = state.restore(1, arrays)
        state.save(2, arrays)  # what the failed one left is gone at the latest now
    assert not list(tmp_path.glob("state/*tmp*"))
    np.testing.assert_array_equal(restored["prompt"], VALUES)
    assert meta == {"best": {"step": 1}}


def test_scalars_that_cannot_be_written_are_told_at_once(tmp_path):
    with contextlib.closing(ScalarWriter(tmp_path / "tensorboard", 0)) as writer:
        writer.add(1, {"train/loss": 0.5})
        with files_of_at_most(100), pytest.raises(WriteError, match="tensorboard cannot be"):
            writer.add(2, {f"train/{number}": 0.5 for number in range(100)})


@pytest.fixture
def settings(model, tmp_path):
    return {
        "model": model,
        "model_dir": tmp_path / "run",
        "feature_lengths": tiny.LENGTHS,
        "batch_size": 8,
        "prompt_length": 5,
        "train_steps": 6,
        "eval_period": 2,
        "checkpoint_period": 2,
        "quiet": True,
    }


def test_a_run_on_a_disk_that_becomes_full_continues_when_there_is_room(settings, tmp_path):
    limits, calls = resource.getrlimit(resource.RLIMIT_FSIZE), []

    def metric(targets, predictions):
        calls.append(1)
        if len(calls) == 2:
            while not (tmp_path / "run" / "state" / "2").is_dir():  # written in the background
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        return {"accuracy": float(len(calls))}

    task = tiny.make_task(metrics=(metric,))
    with files_of_at_most(limits[0]), pytest.raises(WriteError, match="cannot be written"):
        train(task=task, **settings)
    assert RunState(tmp_path / "run", {}).latest_step() == 2
    assert not list(tmp_path.rglob("*partial*"))
    assert load_prompt(tmp_path / "run" / "best").metadata["step"] == 2
    result = train(task=task, **settings)
    assert [scores["step"] for scores in result.history] == [2, 4, 6]
    assert json.loads((tmp_path / "run" / "history.json").read_text()) == result.history


@pytest.mark.slow
def test_a_run_whose_directory_vanishes_ends(settings, tmp_path):
    def metric(targets, predictions):
        shutil.rmtree(tmp_path / "run")
        return {"accuracy": 50.0}

    with pytest.raises((ValueError, WriteError), match=r"has vanished|cannot be written"):
        train(task=tiny.make_task(metrics=(metric,)), **settings)


@pytest.mark.slow
def test_standard_output_on_a_full_disk_is_one_sentence():
    command = [sys.executable, "-m", "prompt_tuning_jax"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "infer", "--prompt", "bundled_topic"],
            env=os.environ | {"XLA_FLAGS": xla_flags.ONE_DEVICE, "JAX_PLATFORMS": "cpu"},
            input="I saw a film.\n",
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: Standard output cannot be written (No space left on device)."
    ]
