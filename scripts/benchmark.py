"""How fast is it, and how much memory does it take? On this machine's CPU, in float32.

train_step   one step of prompt tuning by this library, at T5 1.1's sizes with random weights, with
             one device and with two simulated ones, and, with --torch_python, by PEFT (and by PEFT
             under torch.compile).
long_step    the same at 512 input tokens.
isolated     the step with an isolated prompt, against the step with a prompt that sees everything.
many         a step of 8 prompts at once, 4 examples each, against 8 steps of one prompt.
decode       greedy decoding of 8 tokens for 16 inputs, and, with --torch_python, PEFT's `generate`.
causal       a step and greedy decoding of a causal model, SmolLM2 135M's shape with random weights
             (or --published), against PEFT's.
real_size    `prompt-tuning train` on text files, with a model directory of the real
             size (random weights) and a real vocabulary: steps per second, peak memory.
first_step   how long a run with the bundled model takes from the command to its first step, and
             where the time goes, with and without compiled programs of an earlier run.
t5x_trainer  a step of the bundled experiment in whole runs of `prompt-tuning train` and, where T5X
             is installed, `python -m t5x.train`, which pads to the task's lengths.

Each contender is a process of its own; they take turns within one run, so that a machine whose
speed drifts is unfair to none of them, and never work at the same time.

    python scripts/benchmark.py train_step --output scripts/results/benchmark.json
    python scripts/benchmark.py train_step --torch_python torch_venv/bin/python --torch_compile
    python scripts/benchmark.py real_size --vocabulary spiece.model --steps 30

--output keeps the figures of other benchmarks that the file already holds.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark_commands import (
    CONSOLE,
    Result,
    environment,
    first_step,
    real_size,
    show_first_step,
    show_real_size,
    show_t5x_trainer,
    t5x_trainer,
)
from make_random_t5 import SIZES, model_config
from rich.table import Table

from prompt_tuning_jax.checkpoints.huggingface.causal import PUBLISHED, published_fields

HERE = Path(__file__).parent
OURS, PEFT, PEFT_COMPILED = "prompt_tuning_jax", "PEFT", "PEFT, torch.compile"
SPLIT = f"{OURS}, two devices"  # of this CPU, each with a half of the rows
REST_SECONDS = 0.3  # between turns: threads that wait for more work by spinning go to sleep


class Worker:
    """A process that does one contender's work when told to; see benchmark_worker."""

    def __init__(self, name: str, python: str, script: str, settings: Mapping[str, Any]):
        self.name = name
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [python, str(HERE / script), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment(settings["threads"], settings.get("devices", 1)),
        )
        self.facts = self._reply() | {"startup_seconds": time.perf_counter() - started}
        self.turns: list[dict[str, float]] = []

    def turn(self, times: int) -> None:
        """Has the work done `times` times, and waits for the end of it."""
        time.sleep(REST_SECONDS)
        print(times, file=self._process.stdin)
        self.turns.append(self._reply())

    def _reply(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"The worker of {self.name} has stopped; its error is above.")
        return json.loads(line)

    def result(self) -> Result:
        return self.facts | {
            "seconds": [turn["seconds"] for turn in self.turns],
            "median_seconds": statistics.median(turn["seconds"] for turn in self.turns),
            "peak_gigabytes": self.turns[-1]["peak_bytes"] / 1e9,
        }

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What workers are told to do.

    Attributes:
      work: the name that the workers know it by.
      ours: contender -> what it adds to the settings; the first is measured against the others.
      peft: whether PEFT can do it too.
      causal: whether it is of a published causal model's shape, and not of a T5 1.1's.
      sizes: where they differ from `SIZES_OF_ROWS`.
    """

    work: str
    ours: Mapping[str, Mapping[str, Any]]
    peft: bool = False
    causal: bool = False
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


SIZES_OF_ROWS = {"batch": 8, "inputs": 128, "prompt": 100, "targets": 8}
CAUSAL = {"prompt": 20}
COMPARISONS = {
    "train_step": Comparison("train_step", {SPLIT: {"devices": 2}, OURS: {}}, peft=True),
    "long_step": Comparison(
        "train_step",
        {
            f"{OURS}, MICROBATCHES=4": {"microbatches": 4},
            f"{SPLIT}, MICROBATCHES=2": {"microbatches": 2, "devices": 2},
            OURS: {},
        },
        peft=True,
        sizes={"inputs": 512},
    ),
    "isolated": Comparison(
        "train_step",
        {"isolated prompt": {"visibility": "isolated"}, "full visibility": {}},
        sizes={"inputs": 64},
    ),
    "many": Comparison(
        "many",
        {
            "8 prompts at once, MICROBATCHES=2": {"together": True, "microbatches": 2},
            "8 prompts at once": {"together": True},
            "8 steps of one": {"together": False},
        },
        sizes={"batch": 4, "inputs": 64},
    ),
    "decode": Comparison(
        "decode",
        {f"{OURS}, isolated prompt": {"visibility": "isolated"}, OURS: {}},
        peft=True,
        sizes={"batch": 16, "inputs": 64},
    ),
    "causal_step": Comparison("train_step", {OURS: {}}, peft=True, causal=True, sizes=CAUSAL),
    "causal_decode": Comparison("decode", {OURS: {}}, peft=True, causal=True, sizes=CAUSAL),
}


def contenders(
    comparison: Comparison, args: argparse.Namespace, settings: Mapping[str, Any]
) -> Iterator[Worker]:
    """This library's, then those to compare with that the command line asks for."""
    for name, own in comparison.ours.items():
        yield Worker(name, sys.executable, "benchmark_jax.py", {**settings, **own})
    if args.torch_python and comparison.peft:
        for name, compiled in {PEFT: False, PEFT_COMPILED: True}.items():
            if args.torch_compile or not compiled:
                torch_settings = {**settings, "compile": compiled}
                yield Worker(name, args.torch_python, "benchmark_torch.py", torch_settings)


def compare(args: argparse.Namespace, sizes: Mapping[str, int]) -> Result:
    """Times the contenders of a comparison, which take turns."""
    comparison = COMPARISONS[args.benchmark]
    size, config = args.size, dataclasses.asdict(model_config(args.size))
    if comparison.causal:
        size, config = args.published, published_fields(args.published)
    common = {"threads": args.threads, "dropout": args.dropout, **sizes}
    config |= {"dtype": "float32"}
    settings = {"benchmark": comparison.work, "config": config, **common}
    with contextlib.ExitStack() as stack:
        workers = []
        for worker in contenders(comparison, args, settings):
            workers.append(stack.enter_context(contextlib.closing(worker)))
            startup = worker.facts["startup_seconds"]
            CONSOLE.print(f"{worker.name} is ready after {startup:.1f} s", highlight=False)
        for _ in range(args.repeats):
            for worker in workers:
                worker.turn(args.steps)
        results = {worker.name: worker.result() for worker in workers}
    first, *others = results
    return {
        "settings": {"size": size, **sizes, "steps": args.steps, "repeats": args.repeats},
        "contenders": results,
        "ratios": {name: ratio(results[first], results[name]) for name in others},
    }


def causal(args: argparse.Namespace, _: Mapping[str, int]) -> Result:
    """A step, and decoding."""
    results = {}
    for name in ("causal_step", "causal_decode"):
        own = argparse.Namespace(**vars(args) | {"benchmark": name})
        results[name] = compare(own, row_sizes(own))
    return results


def show_causal(result: Result) -> None:
    for name, one in result.items():
        CONSOLE.print(name)
        show_comparison(one)


def row_sizes(args: argparse.Namespace) -> dict[str, int]:
    """The sizes asked for, else the benchmark's own."""
    comparison = COMPARISONS.get(args.benchmark)
    default = {**SIZES_OF_ROWS, **(comparison.sizes if comparison else {})}
    given = {name: getattr(args, name) for name in SIZES_OF_ROWS}
    return {name: size if given[name] is None else given[name] for name, size in default.items()}


def ratio(ours: Result, theirs: Result) -> dict[str, float]:
    """The first one's time over another's, turn by turn."""
    pairs = [a / b for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)]
    return {"median": statistics.median(pairs), "lowest": min(pairs), "highest": max(pairs)}


def show_comparison(result: Result) -> None:
    table = Table("", "seconds", "lowest-highest", "peak memory", "first / this")
    for name, figures in result["contenders"].items():
        seconds, against = figures["seconds"], result["ratios"].get(name)
        table.add_row(
            name,
            f"{figures['median_seconds']:.3f}",
            f"{min(seconds):.3f}-{max(seconds):.3f}",
            f"{figures['peak_gigabytes']:.2f} GB",
            f"{against['median']:.3f} ({against['lowest']:.3f}-{against['highest']:.3f})"
            if against
            else "",
        )
    CONSOLE.print(table)


# What can be run: how to measure it, and how to show it.
BENCHMARKS = {name: (compare, show_comparison) for name in COMPARISONS} | {
    "causal": (causal, show_causal),
    "real_size": (real_size, show_real_size),
    "first_step": (first_step, show_first_step),
    "t5x_trainer": (t5x_trainer, show_t5x_trainer),
}


def machine() -> dict[str, Any]:
    """What the figures depend on, besides the versions that each worker gives."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "memory_gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
    }


def command_line(script: str = "benchmark.py") -> str:
    """How this program was called, without the places of files on this machine."""
    given = [re.sub(r"^(--\w+=)?/.*/", r"\1", argument) for argument in sys.argv[1:]]
    return shlex.join(["python", f"scripts/{script}", *given])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--size", choices=SIZES, default="small", help="of T5 1.1")
    parser.add_argument(
        "--published", choices=PUBLISHED, default="smollm2-135m", help="of the causal benchmarks"
    )
    for name, what in {
        "batch": "rows",
        "inputs": "input tokens in a row",
        "prompt": "prompt positions",
        "targets": "target tokens in a row",
    }.items():
        parser.add_argument(f"--{name}", type=int, help=f"{what}, instead of the benchmark's own")
    parser.add_argument("--steps", type=int, default=5, help="in a turn, or of real_size's run")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--dropout", type=float, default=0.0, help="of training steps; it is 0.1 by default in both"
    )
    parser.add_argument("--torch_python", help="a python with torch, transformers and peft")
    parser.add_argument("--torch_compile", action="store_true", help="also PEFT compiled")
    parser.add_argument("--vocabulary", type=Path, help="a SentencePiece model, for real_size")
    parser.add_argument("--output", type=Path, help="JSON file for all figures; adds to it")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    measure, show = BENCHMARKS[args.benchmark]
    result = measure(args, row_sizes(args))
    show(result)
    if args.output:
        facts = {"command": command_line(), "machine": machine(), "threads": args.threads}
        earlier = json.loads(args.output.read_text()) if args.output.exists() else {}
        name = args.benchmark + (f", dropout {args.dropout}" if args.dropout else "")
        earlier[name] = facts | result
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(earlier, indent=1) + "\n")


if __name__ == "__main__":
    main()
