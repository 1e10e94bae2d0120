"""A task's scores with what a config names: one prompt or none, several, an ensemble."""

import contextlib
import dataclasses
import json
from typing import Any

from prompt_tuning_jax.banks import TunedBank
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.evaluation.scoring import (
    EnsembleEvaluation,
    Evaluation,
    by_prompt,
    evaluate_ensemble,
    evaluate_task,
    evaluate_tasks,
)
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.settings.evaluate_config import EvaluateConfig, ScoringConfig
from prompt_tuning_jax.settings.prompt_config import check_prompts, load_adapted, load_prompts
from prompt_tuning_jax.settings.setting import settings_of
from prompt_tuning_jax.settings.task_config import lengths_of, load_task, names_a_task

Result = Evaluation | EnsembleEvaluation | dict[str, Evaluation]


def evaluate(config: EvaluateConfig | None = None, **options: Any) -> Result:
    """What the command runs: `evaluate(task="bundled_sentiment", prompt="runs/s/best")`."""
    config = dataclasses.replace(config or EvaluateConfig(), **options)
    check_prompts(config)
    lengths_of(config.feature_lengths)  # refuses what is wrong before anything is loaded
    scoring = {name: getattr(config, name) for name in settings_of(ScoringConfig)}
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
    model = config.model
    if not isinstance(model, FrozenModel):
        model = load_model(model, config.model_dtype, vocabulary=config.vocabulary, mesh=mesh)
    model, _ = load_adapted(config, model)
    prompts = load_prompts(config, model)
    if config.prompts is None:
        return evaluate_task(model, load_task(config, model.vocabulary), prompt=prompts, **scoring)
    if config.prompt_field is None and names_a_task(config):
        return evaluate_ensemble(model, load_task(config, model.vocabulary), prompts, **scoring)
    return evaluate_tasks(model, tasks_of_prompts(config, model, prompts), prompts, **scoring)


def tasks_of_prompts(
    config: EvaluateConfig, model: FrozenModel, bank: TunedBank
) -> dict[str, Task]:
    """The task of each prompt: the records that name it, or the task of the same name."""
    if config.prompt_field is None:
        return {
            name: load_task(dataclasses.replace(config, task=name), model.vocabulary)
            for name in bank.names
        }
    task = load_task(config, model.vocabulary, fields=(config.prompt_field,))
    return by_prompt(task, config.split, config.prompt_field, bank)


def _as_data(result: Any) -> Any:
    """Dataclasses as JSON objects, sharing what is in them."""
    if dataclasses.is_dataclass(result):
        result = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if isinstance(result, dict):
        return {name: _as_data(value) for name, value in result.items()}
    return result
