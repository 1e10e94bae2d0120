"""load_test.py's server: `prompt-tuning serve` as a process, with the prompts that a part needs."""

import contextlib
import dataclasses
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.prompt_file import save_prompt

TASKS = ("bundled_topic", "bundled_sentiment", "bundled_season", "bundled_narrator")
LABELS = {"yes": "yes", "no": "no"}
SERVER = ("--max_input_length=108", "--max_prompt_length=20", "--max_length=16")


class Plan(NamedTuple):
    """What is measured.

    Attributes:
      model: "bundled", or a Hugging Face directory.
      work: a folder for prompts and logs.
      requests: of each measurement.
      minutes: of steady load.
    """

    model: str
    work: Path
    requests: int = 2000
    minutes: float = 60.0
    torch_python: str = ""

    @property
    def prompts(self) -> Path:
        return self.work / "prompts"


class Server(NamedTuple):
    """A process that answers.

    Attributes:
      seconds: that it took to start.
    """

    port: int
    pid: int
    seconds: float

    def processor_seconds(self) -> float:
        """What its process has used so far, of all cores together."""
        fields = Path(f"/proc/{self.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text("utf-8").split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


@contextlib.contextmanager
def server(plan: Plan, prompts: int, *options: str) -> Iterator[Server]:
    """A server of so many prompts."""
    make_prompts(plan, prompts)
    line = [sys.executable, "-m", "prompt_tuning_jax", "serve", f"--model={plan.model}", "--port=0"]
    with started([*line, f"--prompts={plan.prompts}", *SERVER, *options], plan.work) as found:
        yield found


@contextlib.contextmanager
def started(line: list[str], folder: Path) -> Iterator[Server]:
    """A server's process, as soon as it listens; it is to end well."""
    begun, log = time.monotonic(), folder / "server.log"
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(line, stderr=file, env=os.environ)
    try:
        while "Listening at" not in (said := log.read_text("utf-8")):
            if process.poll() is not None:
                raise SystemExit(f"The server did not start:\n{said}")
            time.sleep(0.1)
        port = int(said.split("Listening at http://127.0.0.1:")[1].split("/")[0])
        while not is_open(port):
            time.sleep(0.1)
        yield Server(port, process.pid, round(time.monotonic() - begun, 1))
        process.send_signal(signal.SIGTERM)
        if process.wait(120) not in (0, -signal.SIGTERM):
            raise SystemExit(f"The server ended badly:\n{log.read_text('utf-8')}")
    finally:
        process.kill()


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def make_prompts(plan: Plan, count: int) -> None:
    """Prompts p0, p1, ...: the few that there are in turn, each with noise of its own."""
    rng = np.random.default_rng(0)
    few = kept_prompts() if plan.model == "bundled" else drawn_prompts(plan.model)
    for i in range(count):
        one = few[i % len(few)]
        noise = 0.02 * rng.normal(size=one.shape).astype(np.float32)
        if not (plan.prompts / f"p{i}").exists():
            varied = pt.TunedPrompt(one.values + noise, one.layout, one.metadata)
            save_prompt(plan.prompts / f"p{i}", varied)


def kept_prompts() -> list[pt.TunedPrompt]:
    """Those of the bundled model."""
    names = ("base_model_fingerprint", "verbalizers")
    found = [pt.load_prompt(name) for name in TASKS]
    return [
        dataclasses.replace(one, metadata={name: one.metadata[name] for name in names})
        for one in found
    ]


@functools.cache
def drawn_prompts(directory: str) -> list[pt.TunedPrompt]:
    """Rows of a model's embedding table, which nobody tuned."""
    model, rng = pt.load_model(directory), np.random.default_rng(0)
    table = np.asarray(model.embeddings, np.float32)
    rows = [table[rng.integers(3, len(table), 20)] for _ in TASKS]
    return [pt.TunedPrompt(values, "prefix", {"verbalizers": LABELS}) for values in rows]
