"""A task's prompts of several seeds, trained in one job, and their scores on test."""

import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import prompt_tuning_jax as pt
from prompt_tuning_jax.evaluation.scoring import evaluate_task


class Outcome(NamedTuple):
    """What came of each seed.

    Attributes:
      scores: on test, by the task's best metric.
      curves: (step, score) of each evaluation on validation.
      prompts: those that validation chose.
    """

    scores: list[float]
    curves: list[list[list[float]]]
    prompts: list[pt.TunedPrompt]


def train_and_score(
    model: pt.FrozenModel,
    task: pt.Task,
    seeds: Sequence[int],
    test_limit: int,
    **settings: Any,
) -> Outcome:
    """Trains all seeds by `settings`, of which none is kept, and scores them on test.

    Args:
      test_limit: examples of test.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = pt.train_many(
            {f"seed{seed}": {"seed": seed} for seed in seeds},
            model=model,
            task=task,
            model_dir=folder,
            checkpoint_period=settings["train_steps"],
            quiet=True,
            **settings,
        ).values()
    how = {"feature_lengths": settings["feature_lengths"], "batch_size": 100, "limit": test_limit}
    prompts, metric = [one.prompt for one in results], task.best_metric
    scores = [evaluate_task(model, task, "test", one, **how).scores[metric] for one in prompts]
    curves = [[[e["step"], e[metric]] for e in one.history] for one in results]
    return Outcome(scores, curves, prompts)
