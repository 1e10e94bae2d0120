"""What TensorFlow logs as it starts is not shown; all else is, and everything after an error."""

import os
import subprocess
import sys

import pytest
from common import NEEDS_DATA_EXTRA

START = """
import os
from prompt_tuning_jax.data.tensorflow_log import quiet_start
with quiet_start():
    os.write(2, b"I0000 00:00:17.5 1 port.cc:153] oneDNN custom operations are on.\\n")
    os.write(2, b"E0000 00:00:17.5 1 cuda_platform.cc:52] failed call to cuInit\\n")
    print("a warning of Python's", file=__import__("sys").stderr)
    {last}
os.write(2, b"I0000 00:00:17.5 1 later.cc:1] after the start\\n")
"""


def stderr_of(program, **environment):
    inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True
    ).stderr


def test_its_lines_are_left_out_and_others_are_not():
    shown = stderr_of(START.format(last="pass"))
    assert shown.splitlines() == [
        "a warning of Python's",
        "I0000 00:00:17.5 1 later.cc:1] after the start",
    ]


def test_after_an_error_all_is_shown():
    shown = stderr_of(START.format(last="raise ImportError('libcuda')"))
    assert "oneDNN" in shown
    assert "cuInit" in shown
    assert "ImportError: libcuda" in shown


def test_it_is_shown_where_that_is_asked_for():
    assert "oneDNN" in stderr_of(START.format(last="pass"), TF_CPP_MIN_LOG_LEVEL="0")


def test_it_starts_where_there_is_no_standard_error():
    module = "prompt_tuning_jax.data.tensorflow_log"
    program = f"import os; os.close(2); from {module} import quiet_start\nwith quiet_start(): pass"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
@pytest.mark.data
def test_seqio_tasks_start_in_silence():
    pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)
    program = "import prompt_tuning_jax.data.seqio_source as source; source.tf.constant(1)"
    assert stderr_of(program) == ""
    assert stderr_of(program, TF_CPP_MIN_LOG_LEVEL="0") != ""
