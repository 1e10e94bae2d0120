"""One run in a directory: a live owner is named, a dead one holds nothing."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from common import slow

from prompt_tuning_jax import train, train_many
from prompt_tuning_jax.training import run_lock
from prompt_tuning_jax.training.run_lock import NAME, Owner, RunLock, locked


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(run_lock, "TOUCH_SECONDS", 0.1)
    monkeypatch.setattr(run_lock, "DEAD_SECONDS", 1.0)


def left(directory, **changes):
    """A lock that some process has left or holds; of this process, but for the changes."""
    owner = dataclasses.replace(Owner.this(), **changes)
    (directory / NAME).write_text(json.dumps(dataclasses.asdict(owner)))
    return owner


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_it_is_there_while_inside_and_says_who_has_it(tmp_path):
    with locked([tmp_path]) as check:
        owner = json.loads((tmp_path / NAME).read_text())
        assert (owner["pid"], names(tmp_path)) == (os.getpid(), [NAME])
        check()
    assert names(tmp_path) == []


def test_it_is_given_back_after_an_error_too(tmp_path):
    def fail():
        with locked([tmp_path]):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


def test_a_second_run_is_refused_at_once_and_told_whose_it_is(tmp_path):
    def second():
        with locked([tmp_path]):
            raise AssertionError

    with locked([tmp_path]):
        started = time.monotonic()
        words = rf"process {os.getpid()} on .*, since \d+-\d+.*choose another model_dir"
        with pytest.raises(ValueError, match=words):
            second()
        assert time.monotonic() - started < 0.5
        assert names(tmp_path) == [NAME]
    with locked([tmp_path]):  # and now it is free
        pass


def test_of_several_directories_none_stays_locked_where_one_is_refused(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()

    def both():
        with locked([one, two]):
            raise AssertionError

    with locked([two]):
        with pytest.raises(ValueError, match="two is being written"):
            both()
        assert names(one) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 2**22 - 1},  # gone
        {"started": "1"},  # another process has the number now
    ],
    ids=str,
)
def test_what_a_dead_process_has_left_counts_for_nothing(tmp_path, changes):
    left(tmp_path, **changes)
    started = time.monotonic()
    with locked([tmp_path]) as check:
        assert time.monotonic() - started < 0.5
        check()
    assert names(tmp_path) == []


def test_what_a_killed_process_has_left_counts_for_nothing(tmp_path):
    program = (
        "import os, sys, signal\nfrom pathlib import Path\n"
        "from prompt_tuning_jax.training.run_lock import RunLock\n"
        "RunLock(Path(sys.argv[1])).take()\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True)
    assert done.returncode == -9, done.stderr
    assert names(tmp_path) == [NAME]
    with locked([tmp_path]) as check:
        check()


@pytest.mark.parametrize("place", ["another kernel", ""])
def test_elsewhere_a_lock_counts_as_long_as_it_is_touched(tmp_path, place):
    left(tmp_path, place=place, host="far", pid=7)
    done = threading.Event()

    def touch():
        while not done.wait(0.1):
            os.utime(tmp_path / NAME)

    owner = threading.Thread(target=touch)
    owner.start()
    try:
        with pytest.raises(ValueError, match="process 7 on far"):
            RunLock(tmp_path).take()
    finally:
        done.set()
        owner.join()
    started = time.monotonic()
    with locked([tmp_path]) as check:
        assert time.monotonic() - started > 0.5
        check()
    assert names(tmp_path) == []


def test_one_that_was_not_touched_for_long_is_not_waited_for(tmp_path):
    left(tmp_path, place="another kernel")
    os.utime(tmp_path / NAME, (0, 0))
    started = time.monotonic()
    with locked([tmp_path]):
        assert time.monotonic() - started < 0.5


def test_the_owner_touches_it(tmp_path):
    with locked([tmp_path]):
        os.utime(tmp_path / NAME, (0, 0))
        deadline = time.monotonic() + 30
        while not os.stat(tmp_path / NAME).st_mtime and time.monotonic() < deadline:
            time.sleep(0.05)
        assert os.stat(tmp_path / NAME).st_mtime > 0


@pytest.mark.parametrize("text", [slow(""), "{", slow("[1]"), slow('{"pid": 3}')])
def test_a_lock_that_cannot_be_read_counts_as_long_as_it_is_touched(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    with locked([tmp_path]) as check:
        check()


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with locked([tmp_path]) as check:
        check()
        with pytest.raises(ValueError, match="is being written by another run"):
            RunLock(tmp_path).take()
    assert names(tmp_path) == []


def test_a_run_whose_directory_was_taken_over_or_is_gone_ends(tmp_path):
    with locked([tmp_path]) as check:
        left(tmp_path, host="far", token="other")
        with pytest.raises(ValueError, match=r"taken over by another run.*on far"):
            check()
    assert names(tmp_path) == [NAME]  # it is the other's
    (tmp_path / NAME).unlink()
    with locked([tmp_path]) as check:
        (tmp_path / NAME).unlink()
        with pytest.raises(ValueError, match="has vanished"):
            check()


def test_of_many_starters_one_wins(tmp_path):
    left(tmp_path, pid=2**22 - 1)
    won, at_once = [], threading.Barrier(8)

    def start():
        lock = RunLock(tmp_path)
        at_once.wait()
        try:
            lock.take()
        except ValueError:
            return
        won.append(lock)

    starters = [threading.Thread(target=start) for _ in range(8)]
    for each in starters:
        each.start()
    for each in starters:
        each.join()
    kept = []
    for lock in won:  # at the latest when it is to write, all others know
        with contextlib.suppress(ValueError):
            lock.check()
            kept.append(lock)
    assert len(kept) == 1
    kept[0].release()


def test_training_refuses_before_anything_is_loaded(tmp_path):
    (tmp_path / "a").mkdir()
    settings = {"model": "no/such/model", "task": "bundled_topic"}
    with locked([tmp_path]):
        with pytest.raises(ValueError, match="is being written by another run"):
            train(model_dir=tmp_path, **settings)
        with pytest.raises(ValueError, match="is being written by another run"):
            train_many({"a": {}}, model_dir=tmp_path, **settings)
    with locked([tmp_path / "a"]), pytest.raises(ValueError, match="a is being written"):
        train_many({"a": {}}, model_dir=tmp_path, **settings)
