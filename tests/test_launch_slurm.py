"""The SLURM launcher, against stand-ins for sbatch, srun and scontrol on one machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from common import HANG

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "launch_slurm.sh"
PROGRAM = ("train", "--gin_file=a run.gin", "--input_template", "{text} is")

STAND_INS = {
    "sbatch": """cat > "$CLUSTER/job"; SLURM_JOB_ID=7 bash "$CLUSTER/job" """,
    # Every task, with what SLURM tells it.
    "srun": """shift
total=$(sed -n 's/#SBATCH --ntasks-per-node=//p' "$CLUSTER/job")
for i in $(seq 0 $((total - 1))); do
  SLURM_PROCID=$i SLURM_NTASKS=$total SLURM_STEP_NODELIST=127.0.0.1 "$@" & tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || status=$?; done
exit ${status:-0}""",
    "scontrol": """echo "$@" > "$CLUSTER/asked" """,
    "python": """printf '%s\\n' "$SLURM_PROCID of $SLURM_NTASKS" "$@" > "$CLUSTER/task$SLURM_PROCID"
exit $(cat "$CLUSTER/status")""",
}


@pytest.fixture
def cluster(tmp_path):
    for name, text in STAND_INS.items():
        path = tmp_path / name
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
    (tmp_path / "status").write_text("0")
    return tmp_path


def launch(cluster, *options, program=PROGRAM):
    line = [
        SCRIPT,
        "--python",
        cluster / "python",
        *options,
        *(("--", *program) if program else ()),
    ]
    path = f"{cluster}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "CLUSTER": str(cluster)}
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=HANG)


def test_every_gpu_gets_a_process_with_the_same_arguments(cluster):
    done = launch(cluster, "--gpus", "2", "--nodes", "3", "--option", "--partition=gpu")
    assert done.returncode == 0, done.stderr
    for i in range(2):
        received = (cluster / f"task{i}").read_text().splitlines()
        assert received == [f"{i} of 2", "-m", "prompt_tuning_jax", *PROGRAM]
    job = (cluster / "job").read_text()
    settings = re.findall(r"#SBATCH --(\S+)", job)
    assert {"nodes=3", "ntasks-per-node=2", "gpus-per-node=2", "partition=gpu"} <= set(settings)
    assert {"signal=TERM@120", "requeue"} <= set(settings)
    assert not (cluster / "asked").exists()


@pytest.mark.parametrize(("status", "queued"), [("143", True), ("1", False)])
def test_a_run_that_was_told_to_stop_is_queued_again(cluster, status, queued):
    (cluster / "status").write_text(status)
    assert launch(cluster).returncode == int(status)
    assert (cluster / "asked").exists() == queued
    if queued:
        assert (cluster / "asked").read_text() == "requeue 7\n"


def test_a_dry_run_prints_the_job_and_submits_nothing(cluster):
    done = launch(cluster, "--dry_run", "--name", "two_words")
    assert done.stdout.startswith("#!/usr/bin/env bash\n#SBATCH --job-name=two_words\n")
    assert "srun" in done.stdout
    assert not (cluster / "job").exists()


@pytest.mark.parametrize(
    ("options", "program", "message"),
    [
        (("--nodes", "two"), PROGRAM, "--nodes must be a number above 0, not two"),
        (("--gpus", "-1"), PROGRAM, "--gpus must be a number"),
        ((), (), "there is no command after --"),
        (("--gpus",), (), "--gpus needs a value"),
        (("--gin_file=x",), (), "follow --"),
        (("--python", "absent/python"), PROGRAM, "no such program"),
    ],
)
def test_mistakes_are_named(cluster, options, program, message):
    done = launch(cluster, *options, program=program)
    assert done.returncode == 1
    assert message in done.stderr


def test_help_documents_every_option():
    text = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True).stdout
    options = set(re.findall(r"--\w+(?= \|)|(?<=\| )--\w+", SCRIPT.read_text())) - {"--help"}
    assert len(options) == 6
    assert not [option for option in options if option not in text]


def test_the_real_program_starts_under_slurm(cluster):
    """One task: its own mistake, in one line, is the job's."""
    done = launch(cluster, "--python", sys.executable, program=("train", "--train_steps=0"))
    assert done.returncode == 2
    assert "error: --train_steps must be at least 1, got 0." in done.stderr
