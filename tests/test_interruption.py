"""Ctrl-C ends a command without a traceback, and a second one at once."""

import os
import signal
import subprocess
import sys
import time

import pytest
import xla_flags
from common import HANG, TAKE_SIGNALS, slow

# A call that lets no handler of Python's run until it is done, as a compilation does.
LONG = """
import hashlib, sys
from prompt_tuning_jax.commands import command

def main():
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

command.run(main)
"""


def start(*arguments):
    return subprocess.Popen(
        [*TAKE_SIGNALS, sys.executable, *arguments],
        env=os.environ | {"XLA_FLAGS": xla_flags.ONE_DEVICE, "JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_one_ends_what_runs_no_python():
    process = start("-c", LONG)
    try:
        assert process.stdout.readline() == "begun\n"
        time.sleep(1)  # by then it is in the long call
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "Ending; Ctrl-C again ends at once.\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
    finally:
        process.kill()


@pytest.mark.parametrize("module", ["numpy", "jaxlib", "jaxlib.xla_client", "jax._src.api", "jax"])
def test_one_during_imports(module):
    process = start("-X", "importtime", "-m", "prompt_tuning_jax", "infer", "--input", "/dev/null")
    try:
        for line in process.stderr:  # modules that are imported, as they are
            if line.split()[-1] == module:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANG)
        assert process.returncode == 128 + signal.SIGINT
        assert "Traceback" not in errors, errors
    finally:
        process.kill()


@pytest.mark.parametrize(
    "arguments", [["infer"], slow(["evaluate", "bundled_topic"])], ids=" ".join
)
@pytest.mark.parametrize("seconds", [2, slow(8)])
def test_other_commands_end_without_a_traceback(arguments, seconds):
    process = start("-m", "prompt_tuning_jax", *arguments, "--prompt", "bundled_topic")
    try:
        time.sleep(seconds)  # somewhere in their imports, or at work
        process.send_signal(signal.SIGINT)
        if arguments == ["infer"]:  # which waits for lines that do not come
            assert process.wait(HANG) == 128 + signal.SIGINT
        _, errors = process.communicate(timeout=HANG)
        assert process.returncode in (128 + signal.SIGINT, 0)  # 0: it was done
        assert "Traceback" not in errors, errors
    finally:
        process.kill()
