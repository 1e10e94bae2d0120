"""How good is prompt tuning on a task? Five ways to use one pre-trained model, side by side.

    majority       the most frequent answer
    no prompt      the frozen model on the bare input
    hand-written   the best of several text prompts, chosen on validation
    prompt tuning  a prompt of P vectors, the model frozen
    model tuning   all weights, the learning rate chosen on validation

Accuracy is on the test split; checkpoints are chosen on validation. With --seeds 3 the tuned rows
are means over seeds, and the differences that matter are given for every seed.

    python scripts/compare_methods.py                               # one bundled task, quickly
    python scripts/compare_methods.py --all --seeds 3 --steps 1000  # every bundled task
    python scripts/compare_methods.py --data_dir SST-2 --input_template '{sentence}' \\
        --verbalizers 0=negative 1=positive --text_prompts prompts.txt
"""

import argparse
import collections
import dataclasses
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import prompt_tuning_jax as pt
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS, hand_written_prompts
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.data.task import target_text
from prompt_tuning_jax.evaluation.scoring import evaluate_task
from prompt_tuning_jax.settings.task_config import TaskConfig, load_task

CONSOLE = Console(width=110)
BATCH_SIZE = 16
METHODS = ("majority", "no prompt", "hand-written", "prompt tuning", "model tuning")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What the tuned rows share."""

    model: pt.FrozenModel
    task: pt.Task
    lengths: dict[str, int]
    steps: int
    model_steps: int
    prompt_length: int
    limit: int | None
    folder: Path

    def test(
        self, model: pt.FrozenModel, prompt: Any = None, text_prompt: str | None = None
    ) -> float:
        return self._score("test", model, prompt, text_prompt)

    def validate(self, text_prompt: str | None) -> float:
        return self._score("validation", self.model, None, text_prompt)

    def _score(self, split, model, prompt, text_prompt) -> float:
        result = evaluate_task(
            model,
            self.task,
            split,
            prompt,
            text_prompt=text_prompt,
            feature_lengths=self.lengths,
            batch_size=100,
            limit=self.limit,
        )
        return result.scores[self.task.best_metric]

    def tune(self, name: str, seed: int, steps: int, **options: Any) -> pt.TrainResult:
        """A run of `steps` steps, evaluated six times."""
        return pt.train(
            model=self.model,
            task=self.task,
            feature_lengths=self.lengths,
            model_dir=str(self.folder / f"{name}_{seed}"),
            train_steps=steps,
            batch_size=BATCH_SIZE,
            eval_period=max(steps // 6, 1),
            checkpoint_period=steps,
            eval_limit=self.limit,
            dropout_rate=0.0,
            seed=seed,
            quiet=True,
            **options,
        )


def majority(task: pt.Task, model: pt.FrozenModel) -> float:
    """Accuracy of always giving the training split's most frequent answer."""
    train = task.split("train").stream(seed=None, epoch=0)
    train = (target_text(e, model.vocabulary) for e in itertools.islice(train, 10_000))
    answer = collections.Counter(train).most_common(1)[0][0]
    test = [target_text(e, model.vocabulary) for e in task.split("test").stream(seed=None, epoch=0)]
    return task.score(test, [answer] * len(test))[task.best_metric]


def prompt_tuning(setting: Setting, seed: int) -> tuple[float, list[dict[str, float]]]:
    """Test score of the best prompt by validation, and the learning curve."""
    length = setting.prompt_length
    prompt, history = setting.tune("prompt", seed, setting.steps, prompt_length=length)
    return setting.test(setting.model, prompt), history


def model_tuning(
    setting: Setting, seed: int, rates: list[float]
) -> tuple[float, float, list[dict[str, float]]]:
    """Test score at the learning rate that is best on validation, that rate, and its curve."""

    def best_validation(result: pt.TrainResult) -> float:
        return max(entry[setting.task.best_metric] for entry in result.history)

    runs = {
        rate: setting.tune(
            f"model_{rate}", seed, setting.model_steps, prompt_length=0, learning_rate=rate
        )
        for rate in rates
    }
    rate = max(runs, key=lambda rate: best_validation(runs[rate]))
    return setting.test(runs[rate].model), rate, runs[rate].history


def compare(setting: Setting, prompts: list[str], seeds: int, rates: list[float]) -> dict[str, Any]:
    """All rows for one task."""
    task, model = setting.task, setting.model

    def say(method: str, score: float, comes: str) -> None:
        """A row as soon as it is known, and what is measured now."""
        CONSOLE.print(f"{task.name}: {method} {score:.1f}; now {comes}", highlight=False)

    started = time.perf_counter()
    row: dict[str, Any] = {"task": task.name, "majority": majority(task, model)}
    say("majority", row["majority"], "the frozen model on the bare input")
    row["no prompt"] = setting.test(model)
    say("no prompt", row["no prompt"], f"{len(prompts)} hand-written prompts")
    if prompts:
        best = max(prompts, key=setting.validate)
        row |= {"hand-written": setting.test(model, text_prompt=best), "best text prompt": best}
        say("hand-written", row["hand-written"], f"a prompt is tuned, {setting.steps} steps")
    tuned, curves, full, chosen = [], [], [], []
    for seed in range(seeds):
        score, curve = prompt_tuning(setting, seed)
        tuned, curves = [*tuned, score], [*curves, curve]
        # The rate chosen with the first seed serves the others.
        tried = rates if not chosen else chosen[:1]
        comes = f"the whole model, {len(tried)} x {setting.model_steps} steps"
        say(f"prompt tuning (seed {seed})", score, comes)
        score, rate, _ = model_tuning(setting, seed, tried)
        full, chosen = [*full, score], [*chosen, rate]
        say(f"model tuning (seed {seed})", score, "the next" if seed + 1 < seeds else "the table")
    return row | {
        "prompt tuning": tuned,
        "model tuning": full,
        "model tuning learning rate": chosen[0],
        "prompt curves": curves,
        "seconds": round(time.perf_counter() - started, 1),
    }


def label_words(pairs: Sequence[str] | None) -> dict[str, str] | None:
    """>>> label_words(["0=negative", "1=positive"])
    {'0': 'negative', '1': 'positive'}
    """
    return None if pairs is None else dict(pair.split("=", 1) for pair in pairs)


def with_test_split(task: pt.Task) -> pt.Task:
    """Where there is no test split, validation becomes it and a tenth of train stands in for it."""
    if "test" in task.splits:
        return task
    train = list(task.split("train").stream(seed=0, epoch=0))
    held_out = min(max(len(train) // 10, 50), 1000)
    splits = {
        "train": pt.ExampleList(train[held_out:]),
        "validation": pt.ExampleList(train[:held_out]),
        "test": task.split("validation"),
    }
    return dataclasses.replace(task, splits=splits)


def show(rows: list[dict[str, Any]]) -> None:
    """The table: accuracy in percent; tuned rows as mean, and lowest to highest over seeds."""
    table = Table("test accuracy", *METHODS)
    for row in rows:
        cells = [row.get(method) for method in METHODS]
        table.add_row(row["task"], *map(cell, cells))
    CONSOLE.print(table)
    for row in rows:
        text, rate = row.get("best text prompt", "none"), row["model tuning learning rate"]
        CONSOLE.print(
            f"{row['task']}: best hand-written prompt {text!r}, model tuning rate {rate}, "
            f"{row['seconds']:.0f} s",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def cell(value: float | list[float] | None) -> str:
    """>>> cell([90.0, 92.0])
    '91.0 (90.0-92.0)'
    """
    if value is None:
        return "-"
    if isinstance(value, float) or len(value) == 1:
        return f"{np.mean(value):.1f}"
    return f"{np.mean(value):.1f} ({min(value):.1f}-{max(value):.1f})"


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Learning curves of prompt tuning, all seeds, with the other methods as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(rows), figsize=(5 * len(rows), 3.6), squeeze=False, sharey=True
    )
    for axis, row in zip(axes[0], rows, strict=True):
        for curve in row["prompt curves"]:
            axis.plot(*zip(*[(e["step"], e["accuracy"]) for e in curve], strict=True), color="C0")
        levels = ("majority", "no prompt", "hand-written", "model tuning")
        for color, level in zip(("C7", "C1", "C2", "C3"), levels, strict=True):
            if level in row:
                axis.axhline(np.mean(row[level]), color=color, linestyle="--", label=level)
        axis.plot([], [], color="C0", label="prompt tuning")
        axis.set(title=row["task"], xlabel="step", ylim=(0, 102))
    axes[0][0].set_ylabel("accuracy, percent")
    axes[0][-1].legend(loc="lower right", fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", nargs="+", default=["bundled_narrator"], help="bundled tasks")
    parser.add_argument("--all", action="store_true", help="every bundled task")
    parser.add_argument(
        "--model", default="bundled", help="bundled, or a Hugging Face T5 directory"
    )
    parser.add_argument("--data_dir", help="your own train, validation (and test) files")
    parser.add_argument("--input_template")
    parser.add_argument("--target_template", default="{label}")
    parser.add_argument("--verbalizers", nargs="+", help="raw label=word for each label")
    parser.add_argument("--columns", nargs="+", help="names, for files without header")
    parser.add_argument("--text_prompts", help="a file of hand-written prompts, one a line")
    parser.add_argument("--steps", type=int, default=360)
    parser.add_argument("--model_steps", type=int, default=90, help="steps of model tuning")
    parser.add_argument("--prompt_length", type=int, default=20)
    parser.add_argument("--max_input_length", type=int, default=128)
    parser.add_argument("--limit", type=int, help="evaluate on the first so many examples only")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.003, 0.01])
    parser.add_argument("--output", type=Path, help="JSON file for all figures; adds to it")
    parser.add_argument("--plot", type=Path, help="PNG file for the learning curves")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    command.use_compilation_cache()
    model = pt.load_model(args.model)
    lengths = {"inputs": args.max_input_length, "targets": 8}
    if args.data_dir:
        names = ("data_dir", "input_template", "target_template", "verbalizers", "columns")
        given = {name: getattr(args, name) for name in names}
        config = TaskConfig(**given | {"verbalizers": label_words(args.verbalizers)})
        task = with_test_split(load_task(config, model.vocabulary))
        tasks = [dataclasses.replace(task, name=Path(args.data_dir).name)]
    else:
        names = list(BUNDLED_TASKS) if args.all else args.task
        tasks = [load_task(TaskConfig(task=name), model.vocabulary) for name in names]
    rows = []
    for task in tasks:
        prompts = []
        if args.text_prompts:
            prompts = Path(args.text_prompts).read_text().splitlines()
        elif task.name in BUNDLED_TASKS:
            prompts = list(hand_written_prompts(task.name))
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(
                model=model,
                task=task,
                lengths=lengths,
                steps=args.steps,
                model_steps=args.model_steps,
                prompt_length=args.prompt_length,
                limit=args.limit,
                folder=Path(folder),
            )
            rows.append(compare(setting, prompts, args.seeds, args.rates))
    show(rows)
    if args.output:
        earlier = json.loads(args.output.read_text()) if args.output.exists() else {}
        machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        facts = {"machine": machine, "jax": jax.__version__, "steps": args.steps}
        facts |= {"model tuning steps": args.model_steps, "batch_size": BATCH_SIZE}
        facts |= {"model": args.model, "prompt_length": args.prompt_length}
        earlier |= {row["task"]: {**row, **facts} for row in rows}
        args.output.write_text(json.dumps(earlier, indent=1) + "\n")
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
