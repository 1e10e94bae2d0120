"""Metrics of a task, with a prompt file, a hand-written text prompt, or none.

    prompt-tuning evaluate bundled_sentiment --prompt bundled_sentiment

Several prompts share batches. On one task they are an ensemble,

    prompt-tuning evaluate bundled_woman \\
        --prompts bundled_woman bundled_woman_seed1 bundled_woman_seed2

without a task each is scored on the task that it is named for, and with --prompt_field every record
of a file names its own. Scores go to standard output as JSON.
"""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prompt_tuning_jax.devices import hosts
from prompt_tuning_jax.evaluation.evaluate import Result, evaluate
from prompt_tuning_jax.evaluation.scoring import Evaluation
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.evaluate_config import EvaluateConfig

CONFIG = EvaluateConfig


def scores_by_row(result: Result) -> dict[str, dict[str, float]]:
    """The rows of the table that the command shows."""
    if isinstance(result, Evaluation):
        return {"": result.scores}
    if isinstance(result, dict):
        return {name: evaluation.scores for name, evaluation in result.items()}
    members = {name: evaluation.scores for name, evaluation in result.members.items()}
    together = {"mean": result.mean, f"best ({result.best})": members[result.best]}
    return members | together | {"ensemble": result.ensemble.scores}


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(score, 4) for name, score in scores.items()}


def _printed(result: Result) -> dict[str, Any]:
    """The scores as one JSON object."""
    if isinstance(result, Evaluation):
        return _rounded(result.scores)
    if isinstance(result, dict):
        return {name: _rounded(evaluation.scores) for name, evaluation in result.items()}
    return {
        "members": {name: _rounded(member.scores) for name, member in result.members.items()},
        "mean": _rounded(result.mean),
        "best": {"prompt": result.best} | _rounded(result.members[result.best].scores),
        "ensemble": _rounded(result.ensemble.scores),
    }


def show(result: Result) -> None:
    """Several prompts' scores as a table on standard error."""
    rows = scores_by_row(result)
    columns = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    table = Table("prompt", *columns)
    for name, scores in rows.items():
        cells = (f"{scores[column]:.4g}" if column in scores else "" for column in columns)
        table.add_row(Text(name), *cells)
    Console(stderr=True).print(table)


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning evaluate")
    with hosts.connected():
        result = evaluate(config)
        if not hosts.is_first():
            return
        print(json.dumps(_printed(result)), flush=True)
        if not isinstance(result, Evaluation):
            show(result)
