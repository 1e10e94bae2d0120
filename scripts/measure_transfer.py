"""What is a start at other tasks' prompts worth? Against class labels, in the same steps.

    python scripts/measure_transfer.py --output scripts/results/transfer.json     # an hour, 2 cores
    python scripts/measure_transfer.py --show --output scripts/results/transfer.json

Sources are pre-built prompts of the bundled model; targets are tasks of it that none of them is of.
A target's prompt starts at class labels (the default), at the source whose task is nearest, at the
mean of the nearest three, at what the sources' tasks have in common after training together, or at
that distilled from their prompts; then all take the same steps on the same data. Looking for the
nearest costs another 50 steps. A prompt is chosen by validation and scored on test. Settings are
fixed beforehand. --output is written after each job, and what it holds is not run again.
"""

import argparse
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import kept_record
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from several_seeds import train_and_score

import prompt_tuning_jax as pt
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.settings.task_config import TaskConfig, load_task

CONSOLE = Console(width=110)
SOURCES = ("bundled_topic", "bundled_sentiment", "bundled_place", "bundled_narrator")
TARGETS = ("bundled_verdict", "bundled_woman", "bundled_season")
LENGTHS = {"inputs": 96, "targets": 8}
COMMON = {"feature_lengths": LENGTHS, "batch_size": 16, "prompt_length": 20}
SHARED = ("together", "distilled")
STARTS = ("class_labels", "nearest", "nearest three", *SHARED)


def measure(args: argparse.Namespace, found: kept_record.Record) -> None:
    command.use_compilation_cache()
    model = pt.load_model("bundled")
    names = ("steps", "shared_steps", "seeds", "limit", "test_limit")
    found["settings"] = {name: getattr(args, name) for name in names}
    found["settings"] |= {"sources": list(SOURCES), **COMMON}
    found["settings"] |= {"jax": jax.__version__, "machine": platform.machine()}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name in SOURCES:
            pt.save_prompt(work / "sources" / name, pt.load_prompt(name))
        for target in args.targets:
            jobs = found.setdefault("targets", {}).setdefault(target, {})
            for start in STARTS:
                if start not in jobs:
                    jobs[start] = job(args, model, target, start, work)
                    told = ", ".join(f"{score:.1f}" for score in jobs[start]["scores"])
                    CONSOLE.print(f"{target}, {start}: {told}")
                    kept_record.save(args, found)


def job(
    args: argparse.Namespace, model: pt.FrozenModel, target: str, start: str, work: Path
) -> dict[str, Any]:
    """A start on a target, all seeds: their test scores and curves."""
    task = load_task(TaskConfig(task=target), model.vocabulary)
    found = train_and_score(
        model,
        task,
        range(args.seeds),
        args.test_limit,
        prompt_init=begun(args, model, start, work),
        train_steps=args.steps,
        eval_period=max(args.steps // 5, 1),
        eval_limit=args.limit,
        **COMMON,
    )
    nearest = [taken(prompt) for prompt in found.prompts]
    return {"scores": found.scores, "curves": found.curves, "nearest": nearest}


def taken(prompt: pt.TunedPrompt) -> dict[str, float]:
    """The sources that a run started at, and how near they were."""
    start = prompt.metadata.get("prompt_start") or {}
    return {one["name"]: one["similarity"] for one in start.get("prompts", ())}


def begun(args: argparse.Namespace, model: pt.FrozenModel, start: str, work: Path) -> str:
    """`prompt_init` of a start; what tasks share is trained once for all targets."""
    if start not in SHARED:
        words = {"nearest": f"nearest:{work / 'sources'}"}
        words["nearest three"] = words["nearest"] + ":3"
        return words.get(start, start)
    place = work / start
    if not (place / "shared").exists():
        pt.train_many(
            {name.removeprefix("bundled_"): {"task": name} for name in SOURCES},
            model=model,
            model_dir=place,
            share="product",
            mix_tasks=True,
            train_steps=args.shared_steps,
            eval_period=args.shared_steps,
            checkpoint_period=args.shared_steps,
            eval_limit=50,
            teachers=str(work / "sources") if start == "distilled" else None,
            quiet=True,
            **COMMON,
        )
    return str(place / "shared")


def show(found: Mapping[str, Any]) -> None:
    """A row for each start: its mean (the worst seed), and validation, 40 % of steps."""
    targets = found.get("targets", {})
    table = Table("start", "test", "validation, 40 % of steps", *targets)
    for start in STARTS:
        jobs = [jobs[start] for jobs in targets.values() if start in jobs]
        if len(jobs) < len(targets) or not jobs:
            continue
        cells = [f"{np.mean(one['scores']):.1f} ({min(one['scores']):.1f})" for one in jobs]
        early = [curve[len(curve) * 2 // 5 - 1][1] for one in jobs for curve in one["curves"]]
        worst = np.mean([min(one["scores"]) for one in jobs])
        mean = np.mean([np.mean(one["scores"]) for one in jobs])
        table.add_row(start, f"{mean:.1f} ({worst:.1f})", f"{np.mean(early):.1f}", *cells)
    CONSOLE.print(table)


def draw(found: Mapping[str, Any]) -> Figure:
    """Learning curves from each start, a panel for each target: the mean over seeds."""
    targets = found["targets"]
    figure = Figure(figsize=(4 * len(targets), 3.6), layout="tight")
    axes = figure.subplots(1, len(targets), squeeze=False)[0]
    for axis, (target, jobs) in zip(axes, targets.items(), strict=True):
        for start, one in jobs.items():
            curves = np.array(one["curves"])  # [seeds, evaluations, (step, score)]
            axis.plot(curves[0, :, 0], curves[..., 1].mean(axis=0), marker=".", label=start)
        axis.set(title=target, xlabel="step")
    axes[0].set_ylabel("validation accuracy, mean of seeds")
    axes[-1].legend(fontsize="small", frameon=False)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--shared_steps", type=int, default=240, help="of what tasks share")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, default=200, help="validation examples")
    parser.add_argument("--test_limit", type=int, default=500, help="test examples")
    kept_record.add_options(parser, "the learning curves")
    kept_record.measure_or_show(parser.parse_args(argv), measure, show, draw)


if __name__ == "__main__":
    main()
