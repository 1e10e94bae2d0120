"""Which recipe trains the best prompt? Recipes x tasks x seeds, settings fixed beforehand.

    python scripts/compare_recipes.py --output scripts/results/recipes.json      # hours on 2 cores
    python scripts/compare_recipes.py --tasks bundled_woman --recipes paper low_rank --steps 120
    python scripts/compare_recipes.py --show --output scripts/results/recipes.json --plot plot.png

Every recipe trains all seeds of a task in one job. A prompt is chosen by validation and scored on
test (a tenth of train stands in for validation where a data set has no test labels). Reported: the
mean and the worst seed, and the first evaluation that reaches 95 % of the best score. --output is
written after each job, and what it holds already is not run again.
"""

import argparse
import dataclasses
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import kept_record
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from several_seeds import train_and_score

import prompt_tuning_jax as pt
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.settings.task_config import TaskConfig, load_task
from prompt_tuning_jax.training.comparison.splits import with_test_split

CONSOLE = Console(width=180)
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
ALL = "all"
GROUPS = (("bundled tasks", BUNDLED_TASKS), ("real data", tuple(GLUE)), (ALL, TASKS))
# Of the picture; the others are grey.
COLORS = {"average": "C0", "paper": "C3", "no_dropout": "C1", "residual": "C2", "length_50": "C4"}


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


def measure(args: argparse.Namespace, found: kept_record.Record) -> None:
    command.use_compilation_cache()
    model = pt.load_model(args.model)
    names = ("model", "steps", "seeds", "batch_size", "prompt_length", "max_input_length")
    facts = {name: getattr(args, name) for name in names} | {"jax": jax.__version__}
    found["settings"] = facts | {"machine": platform.processor() or platform.machine()}
    for name in args.tasks:
        task = load(name, model, args.data)
        jobs = found.setdefault("tasks", {}).setdefault(name, {})
        for recipe in args.recipes:
            if recipe in jobs:
                continue
            jobs[recipe] = job(args, task, recipe, model)
            told = ", ".join(f"{score:.1f}" for score in jobs[recipe]["scores"])
            CONSOLE.print(f"{name}: {recipe} {told} ({jobs[recipe]['seconds']:.0f} s)")
            kept_record.save(args, found)


class Summary(NamedTuple):
    """A recipe over several tasks.

    Attributes:
      mean: of the tasks' means over seeds.
      worst: the mean of the tasks' worst seeds.
      steps: to 95 % of the best score on validation, the mean of all seeds.
    """

    mean: float
    worst: float
    steps: float


def summaries(found: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Summary]:
    """The recipes that all of these tasks were trained by, the best mean first."""
    rows = {}
    for recipe in RECIPES:
        if all(recipe in found["tasks"][task] for task in tasks):
            jobs = [found["tasks"][task][recipe] for task in tasks]
            mean = np.mean([np.mean(one["scores"]) for one in jobs])
            worst = np.mean([min(one["scores"]) for one in jobs])
            steps = np.mean([steps_to_most(curve) for one in jobs for curve in one["curves"]])
            rows[recipe] = Summary(float(mean), float(worst), float(steps))
    return dict(sorted(rows.items(), key=lambda row: -row[1].mean))


def steps_to_most(curve: Sequence[Sequence[float]]) -> float:
    """The first step whose score is 95 % of the best."""
    best = max(score for _, score in curve)
    return next(step for step, score in curve if score >= 0.95 * best)


def measured(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Of each group, the tasks that there are figures of; no two groups of the same tasks."""
    groups: dict[str, list[str]] = {}
    for name, tasks in GROUPS:
        of_group = [task for task in tasks if task in found["tasks"]]
        if of_group and of_group not in groups.values():
            groups[name] = of_group
    return groups


def show(found: Mapping[str, Any]) -> None:
    """A table for each group of tasks: a row for each recipe, (the worst seed) in brackets."""
    for group, tasks in measured(found).items():
        rows = summaries(found, tasks)
        each = () if group == ALL else tasks
        headings = [task.removeprefix("bundled_") for task in each]
        table = Table("recipe", "mean", "steps to 95 %", *headings, title=group)
        for recipe, row in rows.items():
            jobs = [found["tasks"][task][recipe] for task in each]
            cells = [f"{np.mean(one['scores']):.1f} ({min(one['scores']):.1f})" for one in jobs]
            table.add_row(recipe, f"{row.mean:.1f} ({row.worst:.1f})", f"{row.steps:.0f}", *cells)
        CONSOLE.print(table)
        if missing := sorted(set(RECIPES) - set(rows)):
            CONSOLE.print(f"Not on all of these tasks yet: {', '.join(missing)}.")


def draw(found: Mapping[str, Any]) -> Figure:
    """Each recipe from its worst seeds to its mean, by groups of tasks; and how fast it learns."""
    groups = {name: tasks for name, tasks in measured(found).items() if name != ALL}
    panels = len(groups) + 1
    figure = Figure(figsize=(4.2 * panels, 4.6), layout="tight")
    axes = figure.subplots(1, panels)
    for axis, (group, tasks) in zip(axes, groups.items(), strict=False):
        rows = dict(reversed(summaries(found, tasks).items()))
        for place, (recipe, row) in enumerate(rows.items()):
            color = COLORS.get(recipe, "0.6")
            axis.plot([row.worst, row.mean], [place, place], color=color, linewidth=2)
            axis.plot(row.mean, place, "o", color=color)
        axis.set_yticks(range(len(rows)), rows)
        axis.set(title=group, xlabel="test score: worst seeds to mean")
    tasks = next(iter(groups.values()))
    for recipe in reversed(summaries(found, tasks)):
        curves = np.array([found["tasks"][task][recipe]["curves"] for task in tasks])
        steps, scores = curves[..., 0].mean(axis=(0, 1)), curves[..., 1].mean(axis=(0, 1))
        label = recipe if recipe in COLORS else None
        axes[-1].plot(steps, scores, color=COLORS.get(recipe, "0.85"), label=label)
    axes[-1].set(title=next(iter(groups)), xlabel="step", ylabel="validation score, mean")
    axes[-1].legend(fontsize="small", frameon=False)
    return figure


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
    kept_record.add_options(parser, "the scores and learning curves")
    return parser.parse_args()


if __name__ == "__main__":
    kept_record.measure_or_show(parse_arguments(), measure, show, draw)
