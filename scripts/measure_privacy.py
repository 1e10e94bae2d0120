"""What privacy costs: scores at several epsilons, and the time of a private step.

    nice -n 15 python scripts/measure_privacy.py --output scripts/results/privacy.json \
        --data path/to/glue                                # half an hour of 2 idle cores
    python scripts/measure_privacy.py --show --output privacy.json --plot privacy.png

The settings were fixed beforehand, the same for every epsilon and for the run without privacy; the
learning rate is the middle one of three that were tried on one task at epsilon 8, and there are
three times the steps of a first try, in which no task was learned, with noise or without. Scores
are those of the validation split after the last step: nothing is chosen by it. All seeds of a task
and an epsilon train in one job. --output is written after each, and what it holds is not run again.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import kept_record
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import prompt_tuning_jax as pt
from prompt_tuning_jax import optim
from prompt_tuning_jax.params import split_params
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.private.sampling import rows_of_most
from prompt_tuning_jax.training.train_step import make_train_step

CONSOLE = Console(width=110)
RECIPE = {
    "prompt_length": 5,
    "batch_size": 32,
    "train_steps": 120,
    "eval_period": 120,
    "checkpoint_period": 120,
    "learning_rate": 0.1,
    "dropout_rate": 0.0,
    "feature_lengths": {"inputs": 32, "targets": 8},
}
TASKS = ("bundled_sentiment", "bundled_topic", "SST-2")
SST2 = {"input_template": "{sentence}", "verbalizers": {"0": "negative", "1": "positive"}}
EPSILONS = {"without": None, "8": 8.0, "3": 3.0, "1": 1.0}
SEEDS = (0, 1, 2)
# (batch size, tokens of inputs, prompt length) of steps that are timed.
SHAPES = ((32, 64, 20), (128, 64, 20))


def scores(task: str, epsilon: float | None, data: Path | None) -> dict[str, Any]:
    """The last accuracy of every seed, and what was spent."""
    asked = {"task": task}
    if task == "SST-2":
        if data is None:
            raise SystemExit(
                "SST-2 is read from files: give the folder that holds SST-2/ as --data"
            )
        asked = {"data_dir": str(data / task), **SST2}
    private = {} if epsilon is None else {"dp_epsilon": epsilon}
    started = time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        runs = {f"seed{seed}": {"seed": seed} for seed in SEEDS}
        results = pt.train_many(runs, **asked, **RECIPE, **private, model_dir=directory, quiet=True)
        facts = json.loads((Path(directory) / "seed0/last/prompt.json").read_text())
    return {
        "accuracies": [result.history[-1]["accuracy"] for result in results.values()],
        "privacy": facts.get("privacy"),
        "cpu_seconds": round(time.process_time() - started),
    }


def step_times(batch_size: int, inputs: int, prompt_length: int, repeats: int) -> dict[str, Any]:
    """The shortest time of a plain and of a private step, in turn, so that both see the same load.

    The private step has the rows that a sample of the usual size is padded to.
    """
    model, rng = pt.load_model("bundled"), np.random.default_rng(0)
    prompt = rng.normal(size=(prompt_length, model.config.emb_dim)).astype(np.float32)
    trainable, frozen = split_params(model.prompted(prompt).params, optim.prompt_rules())
    optimizer = optim.make_optimizer(trainable, optim.prompt_rules())
    common = {"batch_size": batch_size, "dropout_rate": 0.0}
    private = TrainConfig(**common, dp_noise_multiplier=1.0, dp_clip_norm=1.0)
    forms = {"plain": (TrainConfig(**common), batch_size)}
    forms["private_of_equal_rows"] = (private, None)
    forms["private"] = (private, rows_of_most(private, 1))
    steps, times = {}, {name: [] for name in forms}
    for name, (config, rows) in forms.items():
        if rows is None:  # a batch size whose samples have so many rows
            sizes = range(1, batch_size + 1)
            counts = [rows_of_most(TrainConfig(batch_size=n), 1) for n in sizes]
            nearest = min(sizes, key=lambda n: abs(counts[n - 1] - batch_size))
            rows = counts[nearest - 1]
            config = TrainConfig(
                **common | {"batch_size": nearest}, dp_noise_multiplier=1.0, dp_clip_norm=1.0
            )
        batch = {
            "encoder_input_tokens": rng.integers(3, 4000, (rows, inputs)).astype(np.int32),
            "decoder_input_tokens": rng.integers(3, 4000, (rows, 8)).astype(np.int32),
            "decoder_target_tokens": rng.integers(3, 4000, (rows, 8)).astype(np.int32),
            "decoder_loss_weights": np.ones((rows, 8), np.float32),
        }
        steps[name] = make_train_step(config, model, optimizer), batch, rows
    for _ in range(repeats + 1):
        for name, (step, batch, _) in steps.items():
            mine = {key: jax.numpy.array(x, copy=True) for key, x in trainable.items()}
            state = optimizer.init(mine)
            started = time.perf_counter()
            jax.block_until_ready(step(mine, state, frozen, batch, jax.random.key(0)))
            times[name].append(time.perf_counter() - started)
    best = {name: min(each[1:]) for name, each in times.items()}
    return {
        "batch_size": batch_size,
        "inputs": inputs,
        "prompt_length": prompt_length,
        "rows": {name: rows for name, (*_, rows) in steps.items()},
        "seconds": {name: round(x, 4) for name, x in best.items()},
        "ratio": round(best["private"] / best["plain"], 3),
        "ratio_of_equal_rows": round(best["private_of_equal_rows"] / best["plain"], 3),
    }


def measure(args: argparse.Namespace, found: kept_record.Record) -> None:
    found |= {"recipe": RECIPE, "seeds": SEEDS, "model": "bundled", "jax": jax.__version__}
    found["machine"] = f"{platform.machine()}, {jax.devices()[0].platform}"
    if "steps" not in found:
        found["steps"] = [step_times(*shape, args.repeats) for shape in SHAPES]
        kept_record.save(args, found)
    for task in TASKS:
        cells = found.setdefault("scores", {}).setdefault(task, {})
        for name, epsilon in EPSILONS.items():
            if name not in cells:
                cells[name] = scores(task, epsilon, args.data)
                CONSOLE.print(f"{task}, {name}: {cells[name]['accuracies']}")
                kept_record.save(args, found)


def show(found: Mapping[str, Any]) -> None:
    """Accuracies (the worst seed), and a private step's time over a plain one's."""
    table = Table("", *EPSILONS, title="epsilon")
    for task, cells in found["scores"].items():
        values = [cells[name]["accuracies"] if name in cells else None for name in EPSILONS]
        row = [f"{np.mean(x):.1f} ({min(x):.1f})" if x else "" for x in values]
        table.add_row(task, *row)
    CONSOLE.print(table)
    for one in found["steps"]:
        equal, usual = one["ratio_of_equal_rows"], one["ratio"]
        CONSOLE.print(
            f"A step of {one['batch_size']}: {usual} of a plain one's time, {equal} at equal rows."
        )


def draw(found: Mapping[str, Any]) -> Figure:
    """Mean accuracies, with the seeds as points."""
    figure = Figure(figsize=(5, 3.2), layout="tight")
    axes, names = figure.subplots(), list(reversed(EPSILONS))
    for task, cells in found["scores"].items():
        known = [name for name in names if name in cells]
        places = [names.index(name) for name in known]
        values = np.array([cells[name]["accuracies"] for name in known])
        (line,) = axes.plot(places, values.mean(axis=1), marker="o", label=task)
        for seed in values.T:
            axes.plot(places, seed, ".", color=line.get_color(), alpha=0.4)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("epsilon")
    axes.set_ylabel("validation accuracy")
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the folder that holds SST-2/")
    parser.add_argument("--repeats", type=int, default=10, help="of each timed step")
    kept_record.add_options(parser, "the accuracies")
    return parser.parse_args()


if __name__ == "__main__":
    kept_record.measure_or_show(parse_arguments(), measure, show, draw)
