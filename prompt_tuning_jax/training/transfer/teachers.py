"""Each run's teacher: the finished prompt of its task, from a folder of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.settings.setting import settings_of
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.runs import Run
from prompt_tuning_jax.training.transfer.sources import Source, find_prompts


def check_teachers(config: TrainConfig) -> None:
    """Refuses, with a ValueError, teachers of prompts that share nothing, and a weight of none."""
    usual = settings_of(TrainConfig)["teacher_weight"].default
    if config.teachers is None and config.teacher_weight != usual:
        raise ValueError(f"{spelled('teacher_weight')} is for {spelled('teachers')}: set it.")
    if config.teachers is not None and config.share is None:
        raise ValueError(
            f"{_where(config)} teach several prompts that have a part in common: set "
            f"{spelled('share')} and {spelled('runs')}, or leave it out."
        )


def find_teachers(
    config: TrainConfig, runs: Sequence[Run], model: FrozenModel
) -> Float[Array, "N P D"]:
    """The values of the runs' teachers, which the model and the prompts' layout must fit.

    Raises:
      FileNotFoundError: there is no such folder, or no prompt below it.
      ValueError: a run has no teacher there, or several; one is of another model or layout; or they
        differ in length.
    """
    own = Path(config.model_dir).resolve()
    sources = [
        source
        for source in find_prompts(config.teachers).sources
        if not source.path.resolve().is_relative_to(own)
    ]
    found = [_teacher_of(run, sources, config, model) for run in runs]
    for i, source in enumerate(found):
        if any(source is other for other in found[:i]):
            raise ValueError(
                f"{_where(config)}: {source.path} would teach several runs, {runs[i].name!r} among "
                "them: give each run a teacher, which is called as it is."
            )
    lengths = {source.prompt.shape[0] for source in found}
    if len(lengths) > 1:
        each = ", ".join(f"{source.name} {source.prompt.shape[0]}" for source in found)
        raise ValueError(f"{_where(config)}: teachers have as many rows as each other, not {each}.")
    return jnp.stack([jnp.asarray(source.prompt.values, jnp.float32) for source in found])


def digests(teachers: Float[Array, "N P D"]) -> list[str]:
    """What tells each from others."""
    return [hashlib.sha256(np.asarray(values).tobytes()).hexdigest() for values in teachers]


def _where(config: TrainConfig) -> str:
    return spelled("teachers", config.teachers)


def _teacher_of(
    run: Run, sources: Sequence[Source], config: TrainConfig, model: FrozenModel
) -> Source:
    """The prompt of a run's task that is called as the run is, or the only one of the task."""
    task, where = run.outputs.scoring.name, _where(config)
    of_task = [source for source in sources if source.task == task]
    if not of_task:
        known = ", ".join(sorted({source.task for source in sources if source.task})) or "none"
        raise ValueError(
            f"{where}: run {run.name!r} has no teacher there, which would be a prompt of the task "
            f"{task!r}; tasks there: {known}."
        )
    fitting, reason = [], ""
    for source in of_task:
        try:
            _check(source, config, model)
            fitting.append(source)
        except ValueError as error:
            reason = f"{source.path}: {error}"
    if not fitting:
        raise ValueError(f"{where}: run {run.name!r} has no teacher there: {reason}")
    if called := [source for source in fitting if source.name == run.name]:
        return called[0]
    if len(fitting) > 1:
        names = ", ".join(source.name for source in fitting)
        raise ValueError(
            f"{where}: run {run.name!r} could have several teachers, {names}: name the run as one "
            "of them."
        )
    return fitting[0]


def _check(source: Source, config: TrainConfig, model: FrozenModel) -> None:
    model.check(source.prompt, config.allow_prompt_mismatch)
    for name in ("layout", "visibility"):
        theirs, ours = getattr(source.prompt, name), getattr(config, f"prompt_{name}")
        if theirs != ours:
            raise ValueError(
                f"it has the {name} {theirs!r}: set {spelled(f'prompt_{name}')} to that, it is "
                f"{ours!r}."
            )
