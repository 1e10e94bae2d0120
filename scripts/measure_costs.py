"""What a saving costs in accuracy: int8 weights, and isolated prompts.

    python scripts/measure_costs.py int8 --output scripts/results/costs.json          # 5 minutes
    python scripts/measure_costs.py isolated --output scripts/results/costs.json      # 15 minutes
    python scripts/measure_costs.py isolated --seeds 3 --steps 600 --data_dir SST-2 \\
        --input_template '{sentence}' --verbalizers 0=negative 1=positive

int8       the pre-built prompts, which were tuned on float32 weights, on int8 weights: test scores,
           and how far the logits move.
isolated   prompts tuned to see only themselves (all tasks in one run), against the pre-built ones,
           which see their input; on files, both kinds are tuned, from every seed.

Scores are accuracies in percent, of bundled tasks on 1,000 test examples. --output keeps what the
file holds.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

import prompt_tuning_jax as pt
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS, bundled_task
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.data.batches import eval_batches
from prompt_tuning_jax.evaluation.scoring import evaluate_task
from prompt_tuning_jax.settings import command_line
from prompt_tuning_jax.settings.task_config import TaskConfig, load_task
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.comparison.splits import with_test_split

BATCH_SIZE = 100
LENGTHS = {"inputs": 128, "targets": 8}
Costs = dict[str, dict[str, float]]


def label_words(pairs: Sequence[str] | None) -> dict[str, str] | None:
    """>>> label_words(["0=negative", "1=positive"])
    {'0': 'negative', '1': 'positive'}
    """
    return None if pairs is None else dict(pair.split("=", 1) for pair in pairs)


def score(
    model: pt.FrozenModel, prompt: pt.TunedPrompt, task: str | pt.Task, limit: int | None
) -> float:
    task = bundled_task(task) if isinstance(task, str) else task
    settings = {"feature_lengths": LENGTHS, "batch_size": BATCH_SIZE, "limit": limit}
    return evaluate_task(model, task, "test", prompt, **settings).scores["accuracy"]


def int8(tasks: Sequence[str], limit: int | None) -> Costs:
    """Every task's scores with both kinds of weights, and the drift of the logits."""
    exact, ours = (pt.load_model("bundled", dtype=dtype) for dtype in ("float32", "int8"))
    costs = {}
    for task in tasks:
        prompt = pt.load_prompt(task)
        scores = {
            name: score(model, prompt, task, limit)
            for name, model in (("float32", exact), ("int8", ours))
        }
        costs[task] = scores | drift(exact, ours, prompt, task)
    return costs


def drift(
    exact: pt.FrozenModel, ours: pt.FrozenModel, prompt: pt.TunedPrompt, task: str
) -> dict[str, float]:
    """Of the logits at 64 examples' target tokens: in their deviations, in nats, in percent."""
    examples = list(bundled_task(task).split("test"))[:64]
    sizes = {"batch_size": len(examples), "lengths": LENGTHS}
    _, batch = next(eval_batches(examples, exact.vocabulary, **sizes))
    real = np.asarray(batch["decoder_loss_weights"]) > 0
    tokens = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    theirs, mine = (np.asarray(model.logits(*tokens, prompt))[real] for model in (exact, ours))
    return {
        "drift": float(np.sqrt(np.mean((mine - theirs) ** 2)) / theirs.std()),
        "divergence": float(divergence(theirs, mine).mean()),
        "same_top": float(100 * np.mean(mine.argmax(-1) == theirs.argmax(-1))),
    }


def divergence(
    exact: Float[np.ndarray, "tokens V"], ours: Float[np.ndarray, "tokens V"]
) -> Float[np.ndarray, " tokens"]:
    """Kullback-Leibler, of the distributions that two arrays of logits stand for."""
    p, q = jax.nn.log_softmax(exact), jax.nn.log_softmax(ours)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=-1))


def isolated(tasks: Sequence[str], limit: int | None, steps: int | None = None) -> Costs:
    """Every task's score of the pre-built prompt, and of one tuned alike but in isolation."""
    model = pt.load_model("bundled")
    recipes = {task: recipe(task, steps) for task in tasks}
    first, *_ = recipes.values()
    own = ("task", "train_steps", "feature_lengths")
    runs = {task: {name: getattr(one, name) for name in own} for task, one in recipes.items()}
    common = ("batch_size", "prompt_length", "dropout_rate", "eval_period", "checkpoint_period")
    with tempfile.TemporaryDirectory() as folder:
        found = pt.train_many(
            runs,
            model=model,
            model_dir=folder,
            prompt_visibility="isolated",
            eval_limit=limit,
            **{name: getattr(first, name) for name in common},
        )
    return {
        task: {
            "full": score(model, pt.load_prompt(task), task, limit),
            "isolated": score(model, found[task].prompt, task, limit),
        }
        for task in tasks
    }


def isolated_on_files(task: pt.Task, limit: int | None, steps: int | None, seeds: int) -> Costs:
    """Scores of both kinds of prompts by seed, tuned as `compare` tunes them."""
    model, steps = pt.load_model("bundled"), steps or 360
    settings = {
        "task": task,
        "feature_lengths": LENGTHS,
        "train_steps": steps,
        "batch_size": 16,
        "prompt_length": 20,
        "dropout_rate": 0.0,
        "eval_period": max(steps // 6, 1),
        "checkpoint_period": steps,
        "eval_limit": limit,
    }
    runs = {f"seed{seed}": {"seed": seed} for seed in range(seeds)}
    costs: dict[str, float] = {}
    for visibility in ("full", "isolated"):
        with tempfile.TemporaryDirectory() as folder:
            found = pt.train_many(
                runs, model=model, model_dir=folder, prompt_visibility=visibility, **settings
            )
            scores = {name: score(model, one.prompt, task, limit) for name, one in found.items()}
        costs |= {f"{visibility}, {name}": value for name, value in scores.items()}
    return {task.name: costs}


def files_task(args: argparse.Namespace) -> pt.Task:
    config = TaskConfig(
        data_dir=args.data_dir,
        input_template=args.input_template,
        verbalizers=label_words(args.verbalizers),
    )
    task = with_test_split(load_task(config, pt.load_model("bundled").vocabulary))
    return dataclasses.replace(task, name=args.data_dir.name)


def recipe(task: str, steps: int | None) -> TrainConfig:
    """The installed experiment's, by which the pre-built prompt was made."""
    settings = [] if steps is None else [f"--train_steps={steps}", f"--eval_period={steps}"]
    return command_line.parse(TrainConfig, [f"--gin_file=experiments/{task}.gin", *settings], "")


def show(costs: Mapping[str, Mapping[str, Any]]) -> None:
    names = list(next(iter(costs.values())))
    table = Table("task", *names)
    for task, figures in costs.items():
        table.add_row(task, *(f"{figures[name]:.3g}" for name in names))
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("saving", choices=("int8", "isolated"))
    parser.add_argument("--tasks", nargs="+", choices=BUNDLED_TASKS, default=list(BUNDLED_TASKS))
    parser.add_argument("--limit", type=int, help="evaluate on the first so many examples only")
    parser.add_argument("--steps", type=int, help="of isolated, instead of the experiments' own")
    parser.add_argument("--data_dir", type=Path, help="of isolated: files instead of bundled tasks")
    parser.add_argument("--input_template", help="with --data_dir")
    parser.add_argument("--verbalizers", nargs="+", help="with --data_dir, label=word")
    parser.add_argument("--seeds", type=int, default=3, help="with --data_dir")
    parser.add_argument("--output", type=Path, help="JSON file for all figures; adds to it")
    args = parser.parse_args()
    command.use_compilation_cache()
    if args.saving == "int8":
        costs = int8(args.tasks, args.limit)
    elif args.data_dir:
        costs = isolated_on_files(files_task(args), args.limit, args.steps, args.seeds)
    else:
        costs = isolated(args.tasks, args.limit, args.steps)
    show(costs)
    if args.output:
        earlier = json.loads(args.output.read_text()) if args.output.exists() else {}
        longer = args.steps and not args.data_dir
        section = f"{args.saving}, {args.steps} steps" if longer else args.saving
        tasks = earlier.get(section, {}).get("tasks", {}) | costs
        earlier[section] = {"jax": jax.__version__, "tasks": tasks}
        args.output.write_text(json.dumps(earlier, indent=1) + "\n")


if __name__ == "__main__":
    main()
