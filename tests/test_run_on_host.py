"""A module run by two processes that find each other, as the hosts of a pod slice do."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from common import HANG

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "run_on_host.py"
PROGRAM = """
import sys
import jax
from jax.experimental import multihost_utils
import beside

if __name__ == "__main__":
    assert sys.modules["__main__"].beside is beside
    multihost_utils.sync_global_devices("here")
    print(jax.process_index(), jax.process_count(), len(jax.devices()), sys.argv[1:], flush=True)
"""


def slurm(rank, job):
    """JAX finds its peers through these, as it does through a TPU's metadata."""
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_STEP_NUM_NODES": "1",
    }


def test_two_processes_are_one_run(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "beside.py").write_text("")
    job = random.randrange(4096)
    settings = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    line = [sys.executable, str(SCRIPT), "program", "--a=b c"]
    processes = [
        subprocess.Popen(
            line, cwd=tmp_path, env=settings | slurm(rank, job), stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=HANG)[0].splitlines()[-1] for process in processes]
    assert printed == ["0 2 2 ['--a=b c']", "1 2 2 ['--a=b c']"]


@pytest.mark.slow
def test_without_a_module_it_says_how_to_use_it():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 1
    assert "run_on_host.py t5x.train" in done.stderr


@pytest.mark.slow
def test_its_help_is_no_error():
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "run_on_host.py t5x.train" in done.stdout
