"""Which recipe trains the best prompt? Recipes x tasks x seeds, settings fixed beforehand.

    python scripts/compare_recipes.py --output scripts/results/recipes.json      # hours on 2 cores
    python scripts/compare_recipes.py --tasks bundled_woman --recipes paper low_rank --steps 120
    python scripts/compare_recipes.py --show --output scripts/results/recipes.json --plot plot.png

Every recipe trains all seeds of a task in one job. A prompt is chosen by validation and scored on
test (a tenth of train stands in for validation where a data set has no test labels). Reported: the
mean and the worst seed, and the first evaluation that reaches 95 % of the final score. --output is
written after each job, and what it holds already is not run again.
"""

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from several_seeds import train_and_score

import prompt_tuning_jax as pt
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.settings.task_config import TaskConfig, load_task
from prompt_tuning_jax.training.comparison.compare import with_test_split

CONSOLE = Console(width=110)
# As gin_configs/runs/prompt_tuning.gin has it, whatever the defaults are.
PAPER = {
    "prompt_parameterization": "direct",
    "optimizer": "adafactor",
    "learning_rate": 0.3,
    "schedule": "constant",
    "warmup_steps": 0,
    "average_decay": 0.0,
    "label_smoothing": 0.0,
    "z_loss": 1e-4,
    "loss_normalization": "sum",
    "dropout_rate": 0.1,
}
PLAIN = PAPER | {"dropout_rate": 0.0}
DECAYING = PLAIN | {"schedule": "linear", "warmup_steps": 10}
# What `prompt-tuning train` does unasked; the recipes after it change one thing of it.
DEFAULT = PLAIN | {"average_decay": 0.95}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "paper": PAPER,
    "no_dropout": PLAIN,
    "linear": DECAYING,
    "low_rank": DECAYING | {"prompt_parameterization": "low_rank", "parameterization_size": 16},
    "superposition": DECAYING | {"prompt_parameterization": "superposition"},
    "average": DEFAULT,
    "warm_up": DEFAULT | {"warmup_steps": 20},
    "adamw": DEFAULT | {"optimizer": "adamw", "learning_rate": 0.1},
    "smoothing": DEFAULT | {"label_smoothing": 0.1},
    "residual": DEFAULT | {"prompt_parameterization": "residual", "learning_rate": 0.1},
    "low_rank_average": DEFAULT
    | {"prompt_parameterization": "low_rank", "parameterization_size": 16},
    "length_5": DEFAULT | {"prompt_length": 5},
    "length_50": DEFAULT | {"prompt_length": 50},
    "batch_8": DEFAULT | {"batch_size": 8},
    "batch_32": DEFAULT | {"batch_size": 32},
    "from_vocabulary": DEFAULT | {"prompt_init": "sampled_vocabulary"},
    "from_random": DEFAULT | {"prompt_init": "uniform"},
}
GLUE: Mapping[str, Mapping[str, Any]] = {
    "SST-2": {"input_template": "{sentence}", "verbalizers": {"0": "negative", "1": "positive"}},
    "RTE": {
        "input_template": "{premise} {hypothesis}",
        "verbalizers": {"entailment": "yes", "not_entailment": "no"},
    },
    "CB": {
        "input_template": "{premise} {hypothesis}",
        "verbalizers": {"entailment": "yes", "contradiction": "no", "neutral": "maybe"},
    },
    "BoolQ": {
        "input_template": "{question} {passage}",
        "verbalizers": {"true": "yes", "false": "no"},
    },
    "WiC": {
        "input_template": "{word} {sentence1} {sentence2}",
        "verbalizers": {"true": "yes", "false": "no"},
    },
    "COPA": {
        "input_template": "{premise} {question} {choice1} {choice2}",
        "verbalizers": {"0": "first", "1": "second"},
    },
    "MRPC": {
        "input_template": "{#1 String} {#2 String}",
        "target_template": "{Quality}",
        "verbalizers": {"0": "no", "1": "yes"},
    },
}
TASKS = (*BUNDLED_TASKS, *GLUE)


def load(name: str, model: pt.FrozenModel, data: Path | None) -> pt.Task:
    if name in BUNDLED_TASKS:
        return load_task(TaskConfig(task=name), model.vocabulary)
    if data is None:
        raise SystemExit(
            f"{name} is read from files: give the folder that holds {name}/ as --data."
        )
    settings = {"target_template": "{label}"} | GLUE[name]
    config = TaskConfig(data_dir=str(data / name), **settings)
    task = load_task(config, model.vocabulary)
    return dataclasses.replace(with_test_split(task), name=name)


def job(args: argparse.Namespace, task: pt.Task, recipe: str, model: pt.FrozenModel) -> Any:
    """A recipe on a task, all seeds: their test scores, curves, and the time."""
    started = time.perf_counter()
    settings = {
        "feature_lengths": {"inputs": args.max_input_length, "targets": 8},
        "train_steps": args.steps,
        "eval_period": max(args.steps // 4, 1),
        "batch_size": args.batch_size,
        "prompt_length": args.prompt_length,
        "eval_limit": args.limit,
    }
    settings |= RECIPES[recipe]
    found = train_and_score(model, task, range(args.seeds), args.test_limit, **settings)
    seconds = time.perf_counter() - started
    return {"scores": found.scores, "curves": found.curves, "seconds": round(seconds, 1)}


def steps_to_most(curve: list[list[float]]) -> float:
    """The first step whose score is 95 % of the best."""
    best = max(score for _, score in curve)
    return next(step for step, score in curve if score >= 0.95 * best)


def show(found: Mapping[str, Any]) -> None:
    """A row for each recipe: its mean over the tasks, the worst seed of any, and each task."""
    tasks = list(found["tasks"])
    done = [name for name in RECIPES if all(name in found["tasks"][task] for task in tasks)]
    missing = sorted(set(RECIPES) - set(done))
    table = Table("recipe", "mean", "mean of worst", "steps to 95 %", *tasks)
    for name in done:
        jobs = [found["tasks"][task][name] for task in tasks]
        steps = [steps_to_most(curve) for one in jobs for curve in one["curves"]]
        cells = [f"{np.mean(j['scores']):.1f} ({min(j['scores']):.1f})" for j in jobs]
        mean = np.mean([np.mean(j["scores"]) for j in jobs])
        worst = np.mean([min(j["scores"]) for j in jobs])
        table.add_row(name, f"{mean:.2f}", f"{worst:.2f}", f"{np.mean(steps):.0f}", *cells)
    CONSOLE.print(table)
    if missing:
        CONSOLE.print(f"Not on all of these tasks yet: {', '.join(missing)}.")


def plot(found: Mapping[str, Any], file: Path) -> None:
    """Learning curves, a panel for each task: the mean over seeds, and from worst to best."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = found["tasks"]
    figure, axes = plt.subplots(1, len(tasks), figsize=(4.2 * len(tasks), 3.6), squeeze=False)
    for axis, (task, recipes) in zip(axes[0], tasks.items(), strict=True):
        for number, (name, one) in enumerate(recipes.items()):
            curves = np.array(one["curves"])  # [seeds, evaluations, (step, score)]
            steps, scores = curves[0, :, 0], curves[:, :, 1]
            axis.plot(steps, scores.mean(axis=0), color=f"C{number}", label=name)
            axis.fill_between(steps, scores.min(0), scores.max(0), color=f"C{number}", alpha=0.1)
        axis.set(title=task, xlabel="step")
    axes[0][0].set_ylabel("validation score, mean and range of seeds")
    axes[0][-1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=100)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(BUNDLED_TASKS))
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--data", type=Path, help="the folder that holds the files of the others")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--prompt_length", type=int, default=20)
    parser.add_argument("--max_input_length", type=int, default=96)
    parser.add_argument("--limit", type=int, default=200, help="validation examples")
    parser.add_argument("--test_limit", type=int, default=500, help="test examples")
    parser.add_argument("--output", type=Path, help="JSON file for all figures; adds to it")
    parser.add_argument("--plot", type=Path, help="PNG file for the learning curves")
    parser.add_argument("--show", action="store_true", help="run nothing; show what --output holds")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    found: dict[str, Any] = {"tasks": {}}
    if args.output and args.output.exists():
        found = json.loads(args.output.read_text())
    if not args.show:
        command.use_compilation_cache()
        model = pt.load_model(args.model)
        names = ("model", "steps", "seeds", "batch_size", "prompt_length", "max_input_length")
        facts = {name: getattr(args, name) for name in names} | {"jax": jax.__version__}
        found["settings"] = facts | {"machine": platform.processor() or platform.machine()}
        for name in args.tasks:
            task, jobs = load(name, model, args.data), found["tasks"].setdefault(name, {})
            for recipe in args.recipes:
                if recipe in jobs:
                    continue
                jobs[recipe] = job(args, task, recipe, model)
                told = ", ".join(f"{score:.1f}" for score in jobs[recipe]["scores"])
                CONSOLE.print(f"{name}: {recipe} {told} ({jobs[recipe]['seconds']:.0f} s)")
                if args.output:
                    args.output.write_text(json.dumps(found, indent=1) + "\n")
    show(found)
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
