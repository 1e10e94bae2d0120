"""benchmark.py's measurements of whole commands, each a process of its own."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark_worker import peak_bytes
from rich.console import Console
from rich.table import Table

from prompt_tuning_jax.bundled.tasks import bundled_task

HERE = Path(__file__).parent
CONSOLE = Console(width=110)
Result = dict[str, Any]
FEW_STEPS = 5
LENGTHS = ("inputs", "targets")
# A run of one step is made of these, each with those before it.
STAGES = {
    "imports": "import prompt_tuning_jax.train",
    "model": "import prompt_tuning_jax.train; prompt_tuning_jax.load_model('bundled')",
}


def environment(threads: int, devices: int = 1) -> dict[str, str]:
    """This process's, with a processor and a number of threads that every worker obeys.

    Several devices of one processor work with a thread each: they need not wait for others.
    """
    limits = dict.fromkeys(("NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    if devices > 1:
        count = f"--xla_force_host_platform_device_count={devices}"
        limits["XLA_FLAGS"] = f"{count} --xla_cpu_multi_thread_eigen=false"
    return os.environ | limits | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}


def real_size(args: argparse.Namespace, sizes: Mapping[str, int]) -> Result:
    """The training command on files, with a model and a vocabulary of the real size."""
    if args.vocabulary is None:
        sys.exit("real_size needs --vocabulary, the path of a SentencePiece model.")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        make = [sys.executable, str(HERE / "make_random_t5.py"), f"--size={args.size}"]
        make += [f"--vocabulary={args.vocabulary}", f"--output={model}"]
        if subprocess.run(make, env=environment(args.threads)).returncode:
            sys.exit("make_random_t5.py has failed; its error is above.")
        write_records(Path(folder) / "train.jsonl", count=8 * sizes["batch"])
        settings = {
            "model": model,
            "train_file": Path(folder) / "train.jsonl",
            "input_template": "{text}",
            "model_dir": Path(folder) / "run",
            "prompt_length": sizes["prompt"],
            "batch_size": sizes["batch"],
            "train_steps": args.steps,
            "log_period": 1,
            "dropout_rate": 0.0,
        }
        command = [sys.executable, "-m", "prompt_tuning_jax", "train"]
        command += [f"--{name}={value}" for name, value in settings.items()]
        command += ["--feature_lengths", *(f"{name}={sizes[name]}" for name in LENGTHS)]
        figures = time_training(command, environment(args.threads))
        weights, prompt = model / "model.safetensors", Path(folder) / "run/best/prompt.safetensors"
        return {
            "settings": {"size": args.size, **sizes, "steps": args.steps},
            **figures,
            "model_megabytes": weights.stat().st_size / 1e6,
            "prompt_file_megabytes": prompt.stat().st_size / 1e6,
        }


def write_records(path: Path, count: int) -> None:
    """Texts long enough to fill any input length up to a few hundred tokens, and their labels."""
    examples = bundled_task("bundled_topic").split("train").stream(seed=0, epoch=0)
    with path.open("w") as file:
        for _ in range(count):
            several = [next(examples) for _ in range(20)]
            text = " ".join(example["inputs"] for example in several)
            file.write(json.dumps({"text": text, "label": several[0]["targets"]}) + "\n")


def time_training(command: list[str], env: Mapping[str, str]) -> Result:
    """Runs the command; the time between the first and the last step that it reports."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    reported = []
    for line in process.stdout:
        if line.startswith("step "):
            reported.append(time.perf_counter() - started)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or len(reported) < 2:
        sys.exit("The training command has failed; its error is above.")
    return {
        "steps_per_second": (len(reported) - 1) / (reported[-1] - reported[0]),
        "seconds_to_first_step": reported[0],
        "peak_gigabytes": peak_bytes(usage) / 1e9,
    }


def show_real_size(result: Result) -> None:
    table = Table("steps/s", "first step after", "peak memory", "frozen weights", "prompt file")
    table.add_row(
        f"{result['steps_per_second']:.2f}",
        f"{result['seconds_to_first_step']:.1f} s",
        f"{result['peak_gigabytes']:.2f} GB",
        f"{result['model_megabytes']:.0f} MB",
        f"{result['prompt_file_megabytes']:.2f} MB",
    )
    CONSOLE.print(table)


def first_step(args: argparse.Namespace, sizes: Mapping[str, int]) -> Result:
    """Seconds from the command to the end of the first step, and what they are spent on."""
    runs = {"cold": [], "warm": []}
    stages = {name: [] for name in STAGES}
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            env = environment(args.threads) | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"}
            for name, program in STAGES.items():
                stages[name].append(seconds_of([sys.executable, "-c", program], env))
            for name, times in runs.items():
                times.append(seconds_to_first_step(f"{folder}/{name}", env))
    medians = {name: statistics.median(times) for name, times in (stages | runs).items()}
    return {"seconds": stages | runs, "medians": medians}


def seconds_of(command: list[str], env: Mapping[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=env, check=True)
    return time.perf_counter() - started


def seconds_to_first_step(model_dir: str, env: Mapping[str, str]) -> float:
    """Of the bundled experiment; the run ends after two steps."""
    command = [sys.executable, "-m", "prompt_tuning_jax", "train"]
    command += ["--gin_file=experiments/bundled_topic.gin", f"--model_dir={model_dir}"]
    command += ["--train_steps=2", "--log_period=1", "--eval_limit=1"]
    return time_training(command, env)["seconds_to_first_step"]


def show_first_step(result: Result) -> None:
    names = ("imports", "model", "cold", "warm")
    imports, model, cold, warm = (result["medians"][name] for name in names)
    table = Table("", "imports", "bundled model", "the rest", "to the first step")
    for name, whole in {"no compiled programs": cold, "those of an earlier run": warm}.items():
        parts = (imports, model - imports, whole - model, whole)
        table.add_row(name, *(f"{seconds:.1f} s" for seconds in parts))
    CONSOLE.print(table)


def t5x_trainer(args: argparse.Namespace, sizes: Mapping[str, int]) -> Result:
    """Seconds of a step of the bundled experiment, in whole runs of both trainers.

    A step's are what a run of so many more steps takes longer: what comes once is in both.
    """
    seconds = {"prompt_tuning_jax": [], "T5X": []}
    with tempfile.TemporaryDirectory() as folder:
        env = environment(args.threads) | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"}
        base = f"{folder}/base"
        convert = ["prompt_tuning_jax", "checkpoint", "convert", "bundled", base, "--to", "t5x"]
        seconds_of([sys.executable, "-m", *convert], env)
        for turn in range(args.repeats + 1):
            for name, times in seconds.items():
                spent = []
                for steps in (FEW_STEPS, FEW_STEPS + args.steps):
                    run = f"{folder}/{name}-{turn}-{steps}"
                    command = own_run(run, steps) if name != "T5X" else t5x_run(run, steps, base)
                    spent.append(seconds_of([sys.executable, "-m", *command], env))
                times.append((spent[1] - spent[0]) / args.steps)
    seconds = {name: times[1:] for name, times in seconds.items()}  # the first turn compiles
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    return {
        "settings": {"steps": args.steps, "repeats": args.repeats},
        "seconds": seconds,
        "medians": {name: statistics.median(times) for name, times in seconds.items()},
        "ratio": {
            "median": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        },
    }


def own_run(model_dir: str, steps: int) -> list[str]:
    return [
        *("prompt_tuning_jax", "train", "--gin_file=experiments/bundled_topic.gin"),
        *(f"--model_dir={model_dir}", f"--train_steps={steps}", "--eval_limit=1"),
        *("--eval_period=100000", "--checkpoint_period=100000", "--quiet"),
    ]


def t5x_run(model_dir: str, steps: int, base: str) -> list[str]:
    experiment = "prompt_tuning_jax/gin_configs/t5x/experiments/bundled_topic.gin"
    return [
        *("t5x.train", f"--gin_file={experiment}", f"--gin.MODEL_DIR='{model_dir}'"),
        *(f"--gin.INITIAL_CHECKPOINT_PATH='{base}/checkpoint_0'", f"--gin.TRAIN_STEPS={steps}"),
        *("--gin.EVAL_PERIOD=100000", "--gin.CHECKPOINT_PERIOD=100000"),
        *("--gin.train.train_eval_dataset_cfg=None", "--gin.train.infer_eval_dataset_cfg=None"),
    ]


def show_t5x_trainer(result: Result) -> None:
    table = Table("", "seconds a step", "lowest-highest")
    for name, seconds in result["seconds"].items():
        spread = f"{min(seconds):.3f}-{max(seconds):.3f}"
        table.add_row(name, f"{result['medians'][name]:.3f}", spread)
    CONSOLE.print(table)
    CONSOLE.print(
        "ours / T5X's: {median:.3f} ({lowest:.3f}-{highest:.3f})".format(**result["ratio"])
    )
