"""Metrics of a task, with a prompt file, a hand-written text prompt, or none.

    prompt-tuning evaluate --gin.MIXTURE_OR_TASK_NAME=bundled_sentiment \\
        --gin.PROMPT=bundled_sentiment

PROMPTS takes several prompts, and one batch mixes them. On one task they are an ensemble,

    prompt-tuning evaluate --gin.MIXTURE_OR_TASK_NAME=bundled_woman \\
        --gin.PROMPTS="['bundled_woman', 'bundled_woman_seed1', 'bundled_woman_seed2']"

without a task each is scored on the task that it is named for, and with PROMPT_FIELD every record
of a file names its own. Scores go to standard output as JSON.
"""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prompt_tuning_jax.banks import TunedBank
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.evaluation.scoring import (
    EnsembleEvaluation,
    Evaluation,
    ScoringOptions,
    by_prompt,
    evaluate_ensemble,
    evaluate_task,
    evaluate_tasks,
)
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.settings.prompt_config import PromptConfig, check_prompts, load_prompts
from prompt_tuning_jax.settings.task_config import TaskConfig, load_task, names_a_task

Result = Evaluation | EnsembleEvaluation | dict[str, Evaluation]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(PromptConfig, TaskConfig):
    """What `prompt-tuning evaluate` takes; each field is a gin macro in capitals.

    Attributes:
      split: which split to score.
      predictions: "rank" scores the verbalizers and takes the best; "generate" decodes text. None:
        rank where the task declares verbalizers.
      limit: how many examples of each task to score; None for all.
      output: a JSON file for scores, targets and predictions.
      batch_size: rows at once; the copies for an ensemble count.
      mesh: the devices to evaluate on, such as "data:4,model:2"; -1 takes the remaining ones.
      model_dtype: of the frozen weights and the activations.
    """

    split: str = "validation"
    predictions: str | None = None
    limit: int | None = None
    output: str | None = None
    batch_size: int = 32
    mesh: str = "data:-1"
    model_dtype: Any = np.float32


def evaluate(config: EvaluateConfig | None = None, **options: Any) -> Result:
    """What the command runs: `evaluate(task="bundled_sentiment", prompt="runs/s/best")`."""
    config = config or EvaluateConfig(**options)
    check_prompts(config)
    scoring = {
        "text_prompt": config.text_prompt,
        "predictions": config.predictions,
        "feature_lengths": config.feature_lengths,
        "batch_size": config.batch_size,
        "limit": config.limit,
    }
    ScoringOptions(**scoring)  # refuses what is wrong before anything is loaded
    writes = config.output is not None and hosts.is_first()
    with new_file(config.output) if writes else contextlib.nullcontext() as output:
        result = _evaluate(config, scoring)
        if writes:
            output.write_text(json.dumps(_as_data(result), indent=1))
    return result


def _evaluate(config: EvaluateConfig, scoring: dict[str, Any]) -> Result:
    """With one prompt or none, with an ensemble, or each prompt on the task of its own."""
    scoring = scoring | {"split": config.split}
    mesh = sharding.make_mesh(config.mesh)
    model = load_model(config.model, config.model_dtype, vocabulary=config.vocabulary, mesh=mesh)
    prompts = load_prompts(config, model)
    if config.prompts is None:
        return evaluate_task(model, load_task(config, model), prompt=prompts, **scoring)
    if config.prompt_field is None and names_a_task(config):
        return evaluate_ensemble(model, load_task(config, model), prompts, **scoring)
    return evaluate_tasks(model, tasks_of_prompts(config, model, prompts), prompts, **scoring)


def tasks_of_prompts(
    config: EvaluateConfig, model: FrozenModel, bank: TunedBank
) -> dict[str, Task]:
    """The task of each prompt: the records that name it, or the task of the same name."""
    if config.prompt_field is None:
        return {
            name: load_task(dataclasses.replace(config, task=name), model) for name in bank.names
        }
    task = load_task(config, model, fields=(config.prompt_field,))
    return by_prompt(task, config.split, config.prompt_field, bank)


def scores_by_row(result: Result) -> dict[str, dict[str, float]]:
    """The rows of the table that the command shows."""
    if isinstance(result, Evaluation):
        return {"": result.scores}
    if isinstance(result, dict):
        return {name: evaluation.scores for name, evaluation in result.items()}
    members = {name: evaluation.scores for name, evaluation in result.members.items()}
    together = {"mean": result.mean, f"best ({result.best})": members[result.best]}
    return members | together | {"ensemble": result.ensemble.scores}


def _as_data(result: Any) -> Any:
    """Dataclasses as JSON objects, sharing what is in them."""
    if dataclasses.is_dataclass(result):
        result = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if isinstance(result, dict):
        return {name: _as_data(value) for name, value in result.items()}
    return result


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
    config = command.parse(EvaluateConfig, argv, __doc__)
    with hosts.connected():
        result = evaluate(config)
        if not hosts.is_first():
            return
        print(json.dumps(_printed(result)), flush=True)
        if not isinstance(result, Evaluation):
            show(result)


if __name__ == "__main__":
    command.run(main)
