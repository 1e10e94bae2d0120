"""Several hosts: real processes on this machine that train together over loopback."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import xla_flags
from common import HANG

from prompt_tuning_jax import load_prompt, save_prompt
from prompt_tuning_jax.devices import hosts

STEPS = 60


class Processes:
    """The same command as several processes, each with a log in `directory`."""

    def __init__(self, command: list[str], directory: Path, count: int = 2, devices: int = 1):
        directory.mkdir(exist_ok=True)
        self.logs = [directory / f"log{i}" for i in range(count)]
        port = free_port()
        self.running = [
            start(
                command,
                self.logs[i],
                JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
                JAX_NUM_PROCESSES=str(count),
                JAX_PROCESS_ID=str(i),
                XLA_FLAGS=xla_flags.devices(devices),
            )
            for i in range(count)
        ]

    def wait(self, seconds: float = HANG) -> list[int]:
        """The exit codes."""
        return [process.wait(seconds) for process in self.running]

    def text(self, i: int) -> str:
        return self.logs[i].read_text()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_) -> None:
        for process in self.running:
            process.kill()
            process.wait()


def start(command: list[str], log: Path, **environment: str) -> subprocess.Popen:
    with open(log, "w") as file:
        return subprocess.Popen(
            command,
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
            stdout=file,
            stderr=file,
        )


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def as_arguments(settings: dict) -> list[str]:
    return [f"--gin.{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def task(model_dir, tmp_path_factory):
    """A model and a task, as arguments."""
    return as_arguments(
        {
            "INITIAL_CHECKPOINT_PATH": model_dir,
            "DATA_DIR": tiny.save_files(tmp_path_factory.mktemp("files")),
            "INPUT_TEMPLATE": "{text}",
            "VERBALIZERS": {"0": "yes", "1": "no"},
            "TASK_FEATURE_LENGTHS": tiny.LENGTHS,
        }
    )


@pytest.fixture(scope="module")
def run(task):
    """The arguments of a run with dropout, evaluations and many checkpoints."""
    settings = {
        "BATCH_SIZE": 8,
        "PROMPT_LENGTH": 5,
        # The paper's optimizer divides by tiny second moments: rounding would not stay rounding.
        "TRAINABLE": "[('encoder/prompt/prompt', @adam())]",
        "adam.learning_rate": 0.01,
        "TRAIN_STEPS": STEPS,
        "EVAL_PERIOD": 20,
        "CHECKPOINT_PERIOD": 3,
        "QUIET": True,
    }
    return task + as_arguments(settings)


def training(run: list[str], directory: Path) -> list[str]:
    line = [sys.executable, "-m", "prompt_tuning_jax", "train", *run]
    return [*line, f"--gin.MODEL_DIR={directory}"]


def steps(directory: Path) -> list[int]:
    """Steps of the complete states."""
    names = [path.name for path in (directory / "state").glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def wait_for_step(directory: Path, step: int, processes: Processes) -> None:
    deadline = time.monotonic() + HANG
    while not any(done >= step for done in steps(directory)):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes.running), processes.text(0)
        time.sleep(0.002)


def artefacts(directory: Path) -> dict[str, bytes]:
    files = ("best/prompt.safetensors", "last/prompt.safetensors", "history.json")
    kept = {str(p.relative_to(directory)): p.read_bytes() for p in directory.glob("prompts/*/*")}
    assert {int(Path(name).parts[1]) for name in kept} == {0, 20, 40, 60}
    return {name: (directory / name).read_bytes() for name in files} | kept


def finish(run, directory: Path, **sizes: int) -> Path:
    with Processes(training(run, directory), directory, **sizes) as processes:
        codes = processes.wait()
        texts = [processes.text(i) for i in range(len(codes))]
    assert codes == [0] * len(codes), "\n".join(texts)
    assert "best: step" in texts[0]
    assert not any("best: step" in text for text in texts[1:])
    return directory


@pytest.fixture(scope="module")
def together(run, tmp_path_factory):
    """A run of two processes that nothing interrupts."""
    return finish(run, tmp_path_factory.mktemp("together"))


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory):
    """The same run in one process with one device."""
    directory = tmp_path_factory.mktemp("alone")
    line = training(run, directory)
    done = start(line, directory / "log", XLA_FLAGS=xla_flags.ONE_DEVICE).wait(HANG)
    assert done == 0, (directory / "log").read_text()
    return directory


def check_same_run(found: Path, expected: Path) -> None:
    """The same history, of training and of evaluation, and the same prompts, up to rounding.

    Sixty steps of Adam at 0.01 make the 1e-7 of one rounding 2e-6; half a batch less is 0.2.
    """
    histories = [json.loads((path / "history.json").read_text()) for path in (found, expected)]
    for here, there in zip(*histories, strict=True):
        assert here.keys() == there.keys()
        np.testing.assert_allclose([*here.values()], [*there.values()], rtol=1e-4)
    for name in ("best", "last", "prompts/20"):
        prompts = [load_prompt(path / name) for path in (found, expected)]
        np.testing.assert_allclose(*prompts, atol=1e-4)


def test_two_processes_train_and_evaluate_as_one(together, alone):
    check_same_run(together, alone)


@pytest.mark.slow
def test_killed_they_all_stop_and_continue_bit_for_bit(run, together, tmp_path):
    with Processes(training(run, tmp_path), tmp_path) as processes:
        wait_for_step(tmp_path, 9, processes)
        processes.running[1].kill()
        check_the_others_stop(processes, killed=1)
    assert 9 <= steps(tmp_path)[-1] < STEPS
    assert artefacts(finish(run, tmp_path)) == artefacts(together)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=str)
def test_stopped_by_one_signal_they_continue_bit_for_bit(run, together, tmp_path, number):
    with Processes(training(run, tmp_path), tmp_path) as processes:
        wait_for_step(tmp_path, 3, processes)
        processes.running[1].send_signal(number)
        assert processes.wait() == [128 + number] * 2
        stopped = steps(tmp_path)[-1]
        assert f"Stopped at step {stopped}" in processes.text(0)
    assert 3 <= stopped < STEPS
    assert artefacts(finish(run, tmp_path)) == artefacts(together)


def check_the_others_stop(processes: Processes, killed: int) -> None:
    """Within a minute, and with one line that names the process that was killed."""
    codes = processes.wait(seconds=60)
    assert codes.pop(killed) == -signal.SIGKILL
    assert codes == [1] * len(codes)
    for i in set(range(len(processes.running))) - {killed}:
        errors = [line for line in processes.text(i).splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert f"process {killed} of {len(processes.running)} has ended" in errors[0]
        assert "Traceback" not in processes.text(i)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 2])
def test_of_four_processes_any_can_be_killed(run, tmp_path, killed):
    with Processes(training(run, tmp_path), tmp_path, count=4) as processes:
        wait_for_step(tmp_path, 3, processes)
        processes.running[killed].kill()
        check_the_others_stop(processes, killed)
    first = finish(run, tmp_path, count=4)
    assert artefacts(first) == artefacts(finish(run, tmp_path / "whole", count=4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "count", "devices"),
    [
        ("data:4", 4, 1),
        ("data:2,fsdp:2,model:2", 4, 2),
        ("fsdp:2,model:2", 2, 2),
        ("model:2", 2, 1),
    ],
)
def test_any_mesh_may_span_the_processes(run, alone, tmp_path, mesh, count, devices):
    line = [*run, f"--gin.MESH={mesh}"]
    check_same_run(finish(line, tmp_path, count=count, devices=devices), alone)


@pytest.mark.slow
def test_a_tuned_model_is_written_once_and_read_by_all(run, tmp_path):
    rule = "--gin.TRAINABLE=[('(encoder|decoder)/.*', @adam())]"
    line = [*run, rule, "--gin.TRAIN_STEPS=4", "--gin.PROMPT_LENGTH=0", "--gin.MESH=fsdp:-1"]
    finish(line, tmp_path)
    assert (tmp_path / "best" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_command_evaluate_gives_the_same_scores_over_two_processes(task, alone, tmp_path):
    line = [sys.executable, "-m", "prompt_tuning_jax", "evaluate", *task]
    line += [f"--gin.PROMPT={alone / 'best'}", "--gin.BATCH_SIZE=5"]
    with Processes(line, tmp_path) as processes:
        assert processes.wait() == [0, 0], processes.text(0) + processes.text(1)
        (scores,) = re.findall("^{.*}$", processes.text(0), re.MULTILINE)
        assert not re.findall("^{.*}$", processes.text(1), re.MULTILINE)
    history = json.loads((alone / "history.json").read_text())
    best = max(history, key=lambda row: row["accuracy"])
    for name, score in json.loads(scores).items():
        assert score == pytest.approx(best[name], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [True, False])
def test_two_processes_answer_a_file_as_one(labels, model_dir, alone, tmp_path):
    prompt = alone / "best"
    if not labels:  # which it had in training
        save_prompt(prompt := tmp_path / "bare", load_prompt(alone / "best").values)
    (tmp_path / "in").write_text("the soup was good\nthe tea was cold\nbread\n")
    line = [sys.executable, "-m", "prompt_tuning_jax", "infer"]
    line += [f"--gin.INITIAL_CHECKPOINT_PATH={model_dir}", f"--gin.PROMPT={prompt}"]
    with Processes(line, tmp_path / "stdin") as processes:
        assert processes.wait() == [1, 1]
        assert "give --input_file" in processes.text(0)
    line += [f"--gin.INPUT_FILE={tmp_path / 'in'}", "--gin.BATCH_SIZE=4"]
    once = start([*line, f"--output={tmp_path / 'one'}"], tmp_path / "log")
    assert once.wait(HANG) == 0, (tmp_path / "log").read_text()
    with Processes([*line, f"--output={tmp_path / 'two'}"], tmp_path / "logs") as both:
        assert both.wait() == [0, 0], both.text(0) + both.text(1)
    one, two = ((tmp_path / name).read_text().splitlines() for name in ("one", "two"))
    for ours, theirs in zip(map(json.loads, one), map(json.loads, two), strict=True):
        assert ours["prediction"] == theirs["prediction"]
        assert labels == ("scores" in ours)
        if labels:
            assert ours["scores"] == pytest.approx(theirs["scores"], abs=2e-4)


@pytest.mark.slow
def test_a_mistake_is_named_by_every_process(run, tmp_path):
    with Processes(training([*run, "--gin.BATCH_SIZE=3"], tmp_path), tmp_path) as processes:
        assert processes.wait(60) == [1, 1]
        for i in range(2):
            (line,) = re.findall("^error: .*", processes.text(i), re.MULTILINE)
            assert "--batch_size 3 does not divide over the 2 devices" in line


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"JAX_PROCESS_ID": "0"}, "JAX_PROCESS_ID is set, so JAX_COORDINATOR_ADDRESS, JAX_NUM"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}, "so JAX_PROCESS_ID must"),
        (("a:1", "2", "2"), "JAX_PROCESS_ID is '2'"),
        (("a:1", "two", "0"), "JAX_NUM_PROCESSES 'two'"),
        (("a", "2", "0"), "HOST:PORT"),
    ],
)
def test_variables_that_do_not_fit_are_refused(environment, words):
    if isinstance(environment, tuple):
        environment = dict(zip(hosts.VARIABLES, environment, strict=True))
    with pytest.raises(ValueError, match=words):
        hosts.connect(environment)


@pytest.mark.parametrize(
    "environment", [{}, {"JAX_NUM_PROCESSES": "1", "SLURM_NTASKS": "8"}, {"SLURM_JOB_ID": "7"}]
)
def test_one_process_needs_no_others(environment):
    assert hosts.connect(environment) is None
    with hosts.connected():
        hosts.wait_for_all("nobody")
    assert hosts.is_first()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "2"}, False),  # in the batch script itself, outside of srun
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"JOB_COMPLETION_INDEX": "0"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
    ],
)
def test_clusters_that_jax_knows(environment, expected):
    assert hosts.finds_others(environment) == expected
