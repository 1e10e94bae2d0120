"""What is a recycled prompt worth? Its score without a step, and as a start against class labels.

    python scripts/measure_recycling.py --output scripts/results/recycling.json
    python scripts/measure_recycling.py --show --output scripts/results/recycling.json

For each pair of models a pre-built prompt of the first is carried over to the second (`recycle`),
scored as it is on 200 examples of validation, and tuned; beside it a prompt that starts at class
labels is tuned, in the same steps and on the same data. Steps to 95 %: the first evaluation at
which accuracy reaches 95 % of the best that either start reached in that pair. The second model of
a pair is the bundled causal model, or the bundled T5 after more training of all weights, on another
task. The work lies in --work, and an interrupted call goes on from there.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kept_record
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import prompt_tuning_jax as pt
from prompt_tuning_jax.bundled.tasks import bundled_task
from prompt_tuning_jax.commands.command import use_compilation_cache
from prompt_tuning_jax.evaluation.scoring import evaluate_task

TASK = "bundled_topic"
LENGTHS = {"inputs": 128, "targets": 8}
MAPS = {
    "linear": {},
    "linear, intercept": {"intercept": True},
    "linear, 1000 pieces": {"pieces": 1000},
    "network": {"embedding_map": "network"},
}
COMMON = {
    "feature_lengths": LENGTHS,
    "batch_size": 16,
    "dropout_rate": 0.0,
    "quiet": True,
    "eval_limit": 200,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/recycling"), help="for the runs")
    parser.add_argument("--steps", type=int, default=120, help="of tuning a prompt")
    parser.add_argument("--period", type=int, default=10, help="steps between evaluations")
    parser.add_argument("--model_steps", type=int, default=60, help="of tuning the second T5")
    kept_record.add_options(parser, "the learning curves")
    return parser.parse_args()


def measure(args: argparse.Namespace, found: kept_record.Record) -> None:
    use_compilation_cache()
    sibling = further_trained(args.work, args.model_steps)
    models = {
        "bundled to bundled after more training": ("bundled", sibling, TASK),
        "bundled to bundled_causal": ("bundled", "bundled_causal", TASK),
        "bundled_causal to bundled": ("bundled_causal", "bundled", "bundled_causal_topic"),
    }
    found |= {"task": TASK, "model_steps": args.model_steps}
    pairs = found.setdefault("pairs", {})
    for number, (name, (source, target, prompt)) in enumerate(models.items()):
        if name not in pairs:
            pairs[name] = measure_pair(source, target, prompt, args.work / str(number), args)
            kept_record.save(args, found)


def further_trained(work: Path, steps: int) -> str:
    """The bundled T5 with all its weights tuned on another task."""
    place = work / "sibling"
    pt.train(
        model_dir=place,
        task="bundled_season",
        prompt_length=0,
        train_steps=steps,
        eval_period=steps,
        checkpoint_period=steps,
        **COMMON,
    )
    return str(place / "last")


def measure_pair(
    source: str, target: str, prompt: str, place: Path, args: argparse.Namespace
) -> dict[str, Any]:
    models = [pt.load_model(name) for name in (source, target)]
    found: dict[str, Any] = {"steps": args.steps, "maps": {}}
    found["prompt on its own model"] = _score(models[0], prompt)
    found["no prompt"] = _score(models[1], None)
    for name, options in MAPS.items():
        made = pt.recycle(prompt, *models, **options)
        done = made.metadata["recycled"]
        errors = {key: round(done[key], 3) for key in ("fit_error", "held_out_error")}
        found["maps"][name] = errors | {"zero steps": _score(models[1], made)}
        pt.save_prompt(place / "starts" / name.replace(", ", "_").replace(" ", "_"), made)
    best = max(found["maps"], key=lambda name: found["maps"][name]["zero steps"])
    start = place / "starts" / best.replace(", ", "_").replace(" ", "_")
    results = pt.train_many(
        {"recycled": {"prompt_init": str(start)}, "class_labels": {"prompt_init": "class_labels"}},
        model=models[1],
        model_dir=place / "runs",
        task=TASK,
        prompt_length=20,
        train_steps=args.steps,
        eval_period=args.period,
        checkpoint_period=args.period,
        **COMMON,
    )
    curves = {name: _curve(result.history) for name, result in results.items()}
    final = max(score for curve in curves.values() for score in curve.values())
    found |= {"tuned from": best, "curves": curves, "best of either": final}
    found["steps to 95 %"] = {
        name: next((step for step, score in curve.items() if score >= 0.95 * final), None)
        for name, curve in curves.items()
    }
    return found


def _curve(history: list[dict[str, float]]) -> dict[int, float]:
    return {int(scores["step"]): round(scores["accuracy"], 1) for scores in history}


def _score(model: pt.FrozenModel, prompt: Any) -> float:
    tuned = pt.load_prompt(prompt) if isinstance(prompt, str) else prompt
    result = evaluate_task(
        model, bundled_task(TASK), "validation", tuned, feature_lengths=LENGTHS, limit=200
    )
    return round(result.scores["accuracy"], 1)


def show(found: Mapping[str, Any]) -> None:
    """A row for each pair of models: the best map's prompt as it is, and what tuning takes."""
    table = Table("from, to", "map", "error", "as it is", "no prompt", "steps: recycled, labels")
    for name, pair in found["pairs"].items():
        best = pair["maps"][pair["tuned from"]]
        error, score = best["held_out_error"], best["zero steps"]
        steps = "{recycled}, {class_labels}".format(**pair["steps to 95 %"])
        row = (pair["tuned from"], f"{error:.1f}", f"{score:.1f}", f"{pair['no prompt']:.1f}")
        table.add_row(name, *row, steps)
    Console(width=110).print(table)


def draw(found: Mapping[str, Any]) -> Figure:
    """Tuning from the recycled prompt and from class labels, a panel for each pair of models."""
    pairs = found["pairs"]
    figure = Figure(figsize=(4 * len(pairs), 3.6), layout="tight")
    axes = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axis, (name, pair) in zip(axes, pairs.items(), strict=True):
        as_it_is = {"recycled": {0: pair["maps"][pair["tuned from"]]["zero steps"]}}
        for label, scores in pair["curves"].items():
            curve = as_it_is.get(label, {}) | {int(step): score for step, score in scores.items()}
            axis.plot(curve.keys(), curve.values(), marker=".", label=label)
        axis.axhline(pair["no prompt"], color="0.6", linestyle=":", label="no prompt")
        axis.set_title(name, fontsize="medium")
        axis.set_xlabel("step")
    axes[0].set_ylabel("validation accuracy")
    axes[-1].legend(fontsize="small", frameon=False)
    return figure


if __name__ == "__main__":
    kept_record.measure_or_show(parse_arguments(), measure, show, draw)
