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


def test_what_a_link_names_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    with atomic.new_file(tmp_path / "link") as partial:
        partial.write_text("after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "after"


def test_a_pipe_is_written_to_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with atomic.new_file(tmp_path / "pipe") as path:
        path.write_text("answers")
    assert os.read(reader, 100) == b"answers"
    assert (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_a_file_of_a_similar_name_is_left_alone(tmp_path):
    (tmp_path / ".out.partial-old").write_text("mine")
    with atomic.new_file(tmp_path / "out") as partial:
        partial.write_text("whole")
    assert (tmp_path / ".out.partial-old").read_text() == "mine"


def test_a_directory_is_no_file_to_write(tmp_path):
    with pytest.raises(IsADirectoryError, match="name a file in it"), atomic.new_file(tmp_path):
        raise AssertionError("the work has begun")
