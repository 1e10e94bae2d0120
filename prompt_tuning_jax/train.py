"""Training: prompt tuning, model tuning, or both; one run, or several on one frozen model.

    result = pt.train(task="bundled_sentiment", model_dir="runs/sentiment", prompt_length=20)
    model.classify(texts, verbalizers, prompt=result.prompt)

    results = pt.train_many({"seed0": {"seed": 0}, "seed1": {"seed": 1}}, task="bundled_woman",
                            model_dir="runs/woman", prompt_length=20)

A run's directory holds `best/` and `last/` (the prompt, or the tuned model), `prompts/STEP/` (the
prompt at step 0 and at each evaluation, which `interpret` reads), `history.json`, `tensorboard/`,
and `state/`, from which the same call continues after an interruption; `run.lock` while it runs.

`train_runs` is the loop, read from top to bottom. One run is a list of one; where several runs
need other work, their trainer does it.
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from prompt_tuning_jax.checkpoints.run_state import RunState
from prompt_tuning_jax.data.prefetch import Prefetcher
from prompt_tuning_jax.devices import interruption, sharding
from prompt_tuning_jax.errors import same_call, spelled
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.settings.train_config import TrainConfig, check_settings
from prompt_tuning_jax.training import fitting, run_lock
from prompt_tuning_jax.training.identity import spelled_identity, usual_identity
from prompt_tuning_jax.training.monitor import Monitor, NotFiniteError
from prompt_tuning_jax.training.private.budget import with_any_noise, with_common_noise
from prompt_tuning_jax.training.retrieval.set_up import (
    open_embedding_model,
    prepare_retrieval,
    with_rate,
)
from prompt_tuning_jax.training.runs import check_level, drop_worse_half, run_configs
from prompt_tuning_jax.training.set_up import (
    TrainResult,
    open_model,
    prepare,
    read_result,
)
from prompt_tuning_jax.training.trainers import SingleTrainer, StackedTrainer, Trainer
from prompt_tuning_jax.training.transfer.mixed_trainer import MixedTrainer, check_mixture
from prompt_tuning_jax.training.transfer.mixtures import runs_of_mixture
from prompt_tuning_jax.training.transfer.shared_trainer import SharedTrainer, check_sharing
from prompt_tuning_jax.training.transfer.teachers import check_teachers


def train(config: TrainConfig | None = None, **options: Any) -> TrainResult:
    """Runs, or continues, the training that `config` and its fields as keywords describe.

    Raises:
      ValueError: a setting is wrong; all are checked before anything slow starts.
      NotFiniteError: NaN; `last/` then holds the last good prompt.
      KeyboardInterrupt: Ctrl-C, once the step has ended and is saved.
    """
    config = dataclasses.replace(config or TrainConfig(), **options)
    if config.runs is not None:
        raise ValueError("runs are several runs: call train_many(runs, ...).")
    for name in ("share", "halve_at"):
        if getattr(config, name) is not None:
            raise ValueError(f"{spelled(name)} is between several {spelled('runs')}: set these.")
    check_mixture(config, {"": config})
    check_teachers(config)
    check_settings(config)
    (result,) = train_runs(config, {"": config}, SingleTrainer).values()
    return result


def train_many(
    runs: Mapping[str, Mapping[str, Any]] | None, config: TrainConfig | None = None, **options: Any
) -> dict[str, TrainResult]:
    """Runs, or continues, all of `runs`: name -> what it changes in `config` (fields as keywords).

    Each prompt has its own task, data order, initialisation, seed, learning rate and end, and comes
    out as that of a run of its own would (to rounding; with dropout, where both pad alike). One
    step takes a batch of every run, [N, B, ...], through the model together. model_dir/NAME holds
    what a run leaves behind, model_dir/state where all of them stand. A run whose loss becomes NaN
    ends with its last good prompt; the others go on.

    With `share` the prompts have a part in common, which trains on all tasks and is written to
    model_dir/shared; each run's own prompt is whole all the same. With `mix_tasks` a step then
    takes one batch [B, ...], whose rows are of all tasks; `runs` may then be None, for a run of
    each task of a mixture.

    Raises:
      ValueError: as `train`; or a run changes a setting that all runs share.
    """
    config = dataclasses.replace(config or TrainConfig(), **options)
    check_settings(config)
    if runs is None:
        runs = runs_of_mixture(config) if config.mix_tasks else {}
    configs = run_configs(config, runs)
    check_mixture(config, configs)
    check_teachers(config)
    if config.share is None:
        return train_runs(config, configs, StackedTrainer)
    check_sharing(config, configs)
    return train_runs(config, configs, MixedTrainer if config.mix_tasks else SharedTrainer)


def train_runs(
    config: TrainConfig, configs: Mapping[str, TrainConfig], trainer_class: type[Trainer]
) -> dict[str, TrainResult]:
    """Trains, evaluates and saves until every run is done: the loop itself.

    Args:
      config: what the runs have in common.
      configs: name -> the settings of each, its own directory among them.
    """
    with contextlib.ExitStack() as closing:
        places = dict.fromkeys(Path(each.model_dir) for each in (config, *configs.values()))
        check_lock = closing.enter_context(run_lock.locked(list(places)))
        mesh = sharding.make_mesh(config.mesh)
        trainer, model, form = set_up(config, configs, trainer_class, mesh)
        runs, step = trainer.runs, 0

        # A run resumes in this order:
        # 1. Everything is made as for a first step, above: model, task, data, what trains, step.
        # 2. The latest whole state is found; if it is of other settings or data, it is refused.
        # 3. Its arrays take the place of what trains and of the optimizer's state.
        # 4. Each run takes up its step, history and best, and its data the place where they stood.
        # 5. The logs forget the scalars of later steps; the next batch is the one after the state.
        # What was written after that state (best/, prompts/STEP/) is written again, the same.
        how = {"shown": spelled_identity, "usual": usual_identity}
        state = RunState(config.model_dir, trainer.identity, **how)
        if (latest := state.latest_step()) is not None:
            step = latest
            trainer.restore(step, *state.restore(step, trainer.arrays))
            check_level(runs, step)

        closing.enter_context(contextlib.closing(state))
        steps = max(run.config.train_steps for run in runs)
        monitor = Monitor(Path(config.model_dir), step, steps, config.log_period, config.quiet)
        closing.enter_context(contextlib.closing(monitor))
        if form and not config.quiet:
            monitor.say(form)
        for run in runs:
            run.log = closing.enter_context(trainer.open_log(run, monitor))
            if run.outputs.budget is not None:
                run.log.say(run.outputs.budget.told())
            if step == 0:
                run.begin(trainer.trainable(run))
        stop, stopping = closing.enter_context(interruption.stop_signal()), False

        # The runs that are not done go on together until the next of them is.
        while (active := [run for run in runs if not run.is_done]) and not stopping:
            trainer.take(active)
            batches = trainer.batches(active)
            with Prefetcher(batches) as prefetched:
                while not (stopping or any(run.is_done for run in active)):
                    batch, data = next(prefetched)
                    metrics = trainer.step(batch, step)
                    step += 1
                    for run, position in zip(active, data, strict=True):
                        run.step, run.data = step, position
                    saves = step % config.checkpoint_period == 0
                    try:
                        monitor.dispatched(step, metrics, batches.examples)
                        looks = saves or trainer.must_look(step)
                        if looks or any(run.is_due or run.is_done for run in active):
                            monitor.finish_step()
                            check_lock()
                            for run, seen in zip(active, trainer.look(), strict=True):
                                run.log.loss, run.healthy = seen
                            for run in active:
                                if run.is_due:
                                    run.evaluate(trainer.trainable(run))
                            drop_worse_half(active, step)
                        ended = any(run.is_done for run in active)
                        stopping = stop(step) and not all(run.is_done for run in runs)
                        if ended or stopping or saves:
                            monitor.finish_step()
                            check_lock()
                            state.save(step, trainer.arrays, **trainer.standing())
                    except NotFiniteError:
                        for run in active:
                            run.outputs.save("last", trainer.trainable(run), {"step": step})
                        raise
            for run in active:  # the batches made ahead are made again
                run.batches.set_state(run.data)

        if stopping:
            state.close()
            monitor.say(
                f"Stopped at step {step} of {steps}, saved; {same_call()} continues from it."
            )
            stop.leave()
        for run in runs:
            run.finish(trainer.trainable(run))
        trainer.finish()
    return {
        run.name: read_result(Path(run.config.model_dir), model, run.history, config.model_dtype)
        for run in runs
    }


def set_up(
    config: TrainConfig,
    configs: Mapping[str, TrainConfig],
    trainer_class: type[Trainer],
    mesh: Mesh,
) -> tuple[Trainer, FrozenModel, str | None]:
    """The runs before their first step, the model without what trains, the step's form in words.

    From here on the frozen weights are where the mesh holds them; no other copy stays alive.
    """
    if config.retrieves:
        model = open_embedding_model(config, mesh)
        config = with_rate(config, model)
        configs = {name: with_rate(one, model) for name, one in configs.items()}
        prepared = prepare_retrieval(config, configs, model, mesh, trainer_class.check)
        return trainer_class(config, prepared, mesh), prepared.model, None
    model = open_model(config, mesh)
    form = fitting.fit(with_any_noise(config), model, mesh, trainer_class.copies(len(configs)))
    config = dataclasses.replace(config, **form.settings)
    configs = {name: dataclasses.replace(one, **form.settings) for name, one in configs.items()}
    prepared = prepare(configs, model, mesh, trainer_class.check, config.model_dir)
    config = with_common_noise(config, [run.config for run in prepared.runs])
    return trainer_class(config, prepared, mesh), prepared.model, fitting.told(config, model, form)
