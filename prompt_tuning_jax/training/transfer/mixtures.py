"""The runs of a mixture: one for each of its tasks.

A mixture is a SeqIO mixture, whose tasks come at its rates, or files of records in which a field
says which task each is of.
"""

import dataclasses
from typing import Any

from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.data.templates import field_text
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.settings.task_config import load_task
from prompt_tuning_jax.settings.train_config import TrainConfig


def runs_of_mixture(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Name -> what is a run's own.

    Raises:
      ValueError: nothing says which tasks there are; see also `load_task`.
    """
    if config.task_field is not None and config.task_id is None:
        ids = _ids(load_task(dataclasses.replace(config, task_field=None), None), config.task_field)
        return {each: {"task_id": each} for each in ids}
    rates = {} if isinstance(config.task, Task) else _rates(config)
    if len(rates) < 2:
        raise ValueError(
            f"{spelled('mix_tasks', True)} needs several tasks: give {spelled('runs')}, such as "
            f"one.task=... other.task=..., a SeqIO mixture as {spelled('task')}, or, of files, "
            f"{spelled('task_field')}, which says which task a record is of."
        )
    return {name: {"task": name, "task_rate": rate} for name, rate in rates.items()}


def _ids(task: Task, field: str) -> list[str]:
    """What a field says in the training records, in the order in which they come."""
    source = task.split("train")
    if not hasattr(source, "files"):
        raise ValueError(f"{spelled('task_field', field)} is of files' records: leave it out.")
    return list(dict.fromkeys(field_text(record, field) for record in source.records()))


def _rates(config: TrainConfig) -> dict[str, float]:
    """The tasks of a SeqIO mixture that have examples in it: one of rate 0 is only evaluated."""
    if config.task is None:
        return {}
    rates = getattr(load_task(config, None).split("train"), "rates", {})
    return {name: rate for name, rate in rates.items() if rate > 0}
