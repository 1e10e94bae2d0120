"""A grid of settings as few jobs, each of which trains many prompts on one frozen model.

found = pt.sweep({"learning_rate": [0.1, 0.3, 1.0], "seed": [0, 1, 2]}, task="bundled_woman",
                  model_dir="runs/sweep", prompt_length=20)
found.settings, found.prompt    # the best by their mean over seeds, and their best prompt
"""

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_tuning_jax.checkpoints.atomic import scratch_directory
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.settings.parts.retrieval import refuse_retrieval
from prompt_tuning_jax.settings.setting import settings_of
from prompt_tuning_jax.settings.sweep_config import SweepConfig
from prompt_tuning_jax.settings.task_config import load_task
from prompt_tuning_jax.settings.train_config import TrainConfig, check_settings
from prompt_tuning_jax.train import train_many
from prompt_tuning_jax.training.checks import held_out_remedy
from prompt_tuning_jax.training.monitor import NotFiniteError
from prompt_tuning_jax.training.runs import run_configs
from prompt_tuning_jax.training.set_up import open_model
from prompt_tuning_jax.training.sweep.grid import Trial, jobs_of, trials_of, values_of
from prompt_tuning_jax.training.sweep.report import Outcome, Row, write_report
from prompt_tuning_jax.training.transfer.nearest import check_apart
from prompt_tuning_jax.tuned_prompt import TunedPrompt


@dataclasses.dataclass(frozen=True)
class Found:
    """What a sweep found.

    Attributes:
      settings: of the grid, those with the best mean score over seeds.
      prompt: the best of their prompts; None where another method trained.
      directory: where it is, or the method's adapter or model.
      rows: settings (without seeds) -> scores, the best first.
    """

    settings: Mapping[str, Any]
    prompt: TunedPrompt | None
    directory: str
    rows: Sequence[Row]


def sweep(
    grid: Mapping[str, Any] | None = None, config: SweepConfig | None = None, **options: Any
) -> Found:
    """Trains every combination of the grid's settings, and keeps the best prompt.

    model_dir/jobN/TRIAL holds what each leaves behind, model_dir/best the best prompt, sweep.json
    and sweep.png what came of all. Started again, it goes on where it was. Settings that runs
    together may differ in (rate, seed, start, ...) train in one job; each value of another (the
    prompt's length, the optimizer, ...) is a job of its own. With `halve_at`, each job drops its
    worse half.

    Args:
      grid: setting -> the values to try.
      config, options: as `train` takes them.

    Raises:
      ValueError: a grid's setting or value is wrong; the task has nothing to evaluate on.
      NotFiniteError: every trial broke before it was scored.
    """
    config = dataclasses.replace(config or SweepConfig(), **options)
    trials = trials_of(values_of(config.grid if grid is None else grid))
    base = TrainConfig(**{name: getattr(config, name) for name in settings_of(TrainConfig)})
    if base.runs is not None:
        raise ValueError(f"{spelled('grid')} makes the runs: leave {spelled('runs')} out.")
    check_settings(base)
    refuse_retrieval(base, "A sweep")
    jobs = jobs_of(trials)
    for number, job in enumerate(jobs):  # all before the first trains
        for each in run_configs(*job_settings(base, number, job)).values():
            check_apart(each.prompt_init, base.model_dir)
    mesh = sharding.make_mesh(base.mesh)
    base = dataclasses.replace(base, model=open_model(base, mesh))
    task = load_task(base, base.model.vocabulary)
    if base.eval_split not in task.splits:
        remedy = held_out_remedy(task)
        raise ValueError(f"{task.name!r} has no {base.eval_split} split to rank by.{remedy}")
    metric = task.best_metric if task.metrics else "loss"
    outcomes = [outcome for i, job in enumerate(jobs) for outcome in _run(base, i, job, metric)]
    rows = write_report(Path(base.model_dir), outcomes, metric)
    best = max(rows[0].outcomes, key=lambda outcome: outcome.rank)
    if best.rank == -math.inf:
        raise NotFiniteError(f"No trial came to a score: lower {spelled('learning_rate')}.")
    kept = Path(base.model_dir) / "best"
    _keep(best.directory / "best", kept)
    prompt = load_prompt(kept) if (kept / "prompt.safetensors").exists() else None
    return Found(rows[0].settings, prompt, str(kept), rows)


def job_settings(
    base: TrainConfig, number: int, job: Sequence[Trial]
) -> tuple[TrainConfig, dict[str, Mapping[str, Any]]]:
    """What a job's trials have in common, and what is each one's own."""
    directory = str(Path(base.model_dir) / f"job{number}")
    common = dataclasses.replace(base, model_dir=directory, **job[0].shared)
    return common, {trial.name: trial.own for trial in job}


def _run(base: TrainConfig, number: int, job: Sequence[Trial], metric: str) -> list[Outcome]:
    """A job's trials, as they came out."""
    common, own = job_settings(base, number, job)
    results = train_many(own, common)
    return [
        Outcome(
            trial.settings,
            Path(common.model_dir) / trial.name,
            metric,
            tuple((entry["step"], entry[metric]) for entry in results[trial.name].history),
        )
        for trial in job
    ]


def _keep(source: Path, place: Path) -> None:
    """A copy of a prompt's directory in place of what was there."""
    if hosts.is_first():
        with scratch_directory(place) as copy:
            shutil.copytree(source, copy, dirs_exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(place)
            copy.rename(place)
    hosts.wait_for_all("sweep")
