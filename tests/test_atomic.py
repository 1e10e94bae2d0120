"""Files that are never seen half-written."""

import os

import pytest

from prompt_tuning_jax.checkpoints import atomic


@pytest.mark.parametrize("leftover", ["its own", "a dead process's"])
def test_what_a_kill_left_of_a_write_is_cleared(tmp_path, leftover):
    process = os.getpid() if leftover == "its own" else 2**22 - 1
    (tmp_path / f".best.partial-{process}" / "half").mkdir(parents=True)
    (tmp_path / f".out.json.partial-{process}").write_text("half")
    with atomic.scratch_directory(tmp_path / "best") as partial:
        assert not list(partial.iterdir())
    with atomic.new_file(tmp_path / "out.json") as partial:
        partial.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.json"
    path.write_text("before")

    def fail():
        with atomic.new_file(path) as partial:
            partial.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]
    assert path.read_text() == "before"


def test_a_directory_is_no_file_to_write(tmp_path):
    with pytest.raises(IsADirectoryError, match="name a file in it"), atomic.new_file(tmp_path):
        raise AssertionError("the work has begun")
