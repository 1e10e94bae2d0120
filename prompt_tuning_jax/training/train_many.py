"""Many prompts tuned at once on one frozen model: several tasks, seeds, or learning rates.

    prompt-tuning train bundled_woman --prompt_length 20 --model_dir runs/woman \\
        --runs seed0.seed=0 seed1.seed=1

or, from Python,

    results = pt.train_many({"seed0": {"seed": 0}, "seed1": {"seed": 1}}, task="bundled_woman",
                            model_dir="runs/woman", prompt_length=20)

Each prompt has its own task, data order, initialisation, seed, learning rate and end, and comes out
as that of a run of its own would (to rounding; with dropout, where both pad alike). One step takes
a batch of every run, [N, B, ...], through the model together. model_dir/NAME holds what a run
leaves behind, model_dir/state where all of them stand.
"""

import contextlib
import dataclasses
import functools
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prompt_tuning_jax import optim
from prompt_tuning_jax.checkpoints.run_state import RunState
from prompt_tuning_jax.data.prefetch import Prefetcher
from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.params import PROMPT_NAME, FlatParams, split_params
from prompt_tuning_jax.settings.task_config import load_task
from prompt_tuning_jax.settings.train_config import (
    TrainConfig,
    check_settings,
    check_task,
    run_identity,
)
from prompt_tuning_jax.training import monitor
from prompt_tuning_jax.training.outputs import Reporter
from prompt_tuning_jax.training.runs import ManyBatches, Run, RunMonitor, run_configs
from prompt_tuning_jax.training.set_up import (
    TrainResult,
    make_batches,
    on_mesh,
    open_model,
    place,
    read_result,
    start_params,
)
from prompt_tuning_jax.training.train_step import step_function

DEFAULT_RATE = 0.3


def train_many(
    runs: Mapping[str, Mapping[str, Any]], config: TrainConfig | None = None, **options: Any
) -> dict[str, TrainResult]:
    """Runs, or continues, all of `runs`: name -> what it changes in `config` (fields as keywords).

    A run whose loss becomes NaN ends with its last good prompt; the others go on.

    Raises:
      ValueError: as `train`; or a run changes what one step has in common (`many_runs.COMMON`).
    """
    config = dataclasses.replace(config or TrainConfig(), **options)
    model_dir = check_settings(config)
    configs = run_configs(config, runs)
    mesh = sharding.make_mesh(config.mesh)
    model = open_model(config, mesh)
    everyone, frozen, identity = prepare(configs, model, mesh)
    model = on_mesh(model, frozen)
    stacked = sharding.put(start_stack(everyone, config), sharding.replicated(mesh))
    step_many = make_step(config, model)

    step = 0
    state = RunState(model_dir, identity)
    if (latest := state.latest_step()) is not None:
        stacked, saved = state.restore(latest, stacked)
        step = latest
        for run in everyone:
            run.resume(saved["runs"][run.name])
        check_level(everyone, step)
    steps = max(run.config.train_steps for run in everyone)
    watch = monitor.Monitor(model_dir, step, steps, config.log_period, config.quiet)

    with contextlib.ExitStack() as closing:
        for each in (state, watch):
            closing.enter_context(contextlib.closing(each))
        for i, run in enumerate(everyone):
            run.watch = RunMonitor(run.name, run.config, run.step)
            closing.enter_context(contextlib.closing(run.watch))
            if step == 0:
                run.reporter.keep_prompt(row(stacked, i), {"step": 0})
        stop, stopping = closing.enter_context(hosts.stop_signal()), False
        # The runs that are not done go on together until the next of them is.
        while (active := [run for run in everyone if not run.is_done]) and not stopping:
            rows = np.array([everyone.index(run) for run in active])
            part = take(stacked, rows, mesh)
            keys, rates = seeds(active), learning_rates(active)
            with Prefetcher(ManyBatches(active)) as prefetched:
                while not (stopping or any(run.is_done for run in active)):
                    batch, data = next(prefetched)
                    batch = sharding.put(batch, many_sharding(mesh))
                    part, metrics, overall = step_many(part, frozen, batch, keys, rates, step)
                    step += 1
                    watch.dispatched(step, overall, config.batch_size * len(active))
                    for run, position in zip(active, data, strict=True):
                        run.step, run.data = step, position
                    saves = step % config.checkpoint_period == 0
                    looks = saves or step % config.log_period == 0
                    if looks or any(run.is_due or run.is_done for run in active):
                        watch.finish_step()
                        losses, healthy = jax.device_get((metrics["loss"], part[2]))
                        for i, run in enumerate(active):
                            run.look(row(part, i), float(losses[i]), bool(healthy[i]))
                    ended = any(run.is_done for run in active)
                    stopping = stop(step) and not all(run.is_done for run in everyone)
                    if ended or stopping or saves:
                        watch.finish_step()
                        stacked = put_back(stacked, rows, part)
                        state.save(step, stacked, runs={r.name: r.standing() for r in everyone})
            for run in active:  # the batches made ahead are made again
                run.batches.set_state(run.data)
        if stopping:
            state.close()
            watch.say(f"Stopped at step {step}; the same command continues from here.")
            sys.exit(128 + signal.SIGTERM)
        for i, run in enumerate(everyone):
            run.finish(row(stacked, i))
    return {
        run.name: read_result(Path(run.config.model_dir), model, run.history, config.model_dtype)
        for run in everyone
    }


def check_level(everyone: Sequence[Run], step: int) -> None:
    """Refuses a run that had ended before the others and would now go on."""
    for run in everyone:
        if run.step != step and not run.is_done:
            raise ValueError(
                f"RUNS: {run.name!r} had ended at step {run.step}, and the others stand at {step}: "
                "its TRAIN_STEPS or PATIENCE cannot be raised now. Train it in a MODEL_DIR of its "
                f"own; PROMPT_INIT may be {run.config.model_dir}/last."
            )


def prepare(
    configs: Mapping[str, TrainConfig], model: FrozenModel, mesh: Mesh
) -> tuple[list[Run], FlatParams, dict[str, Any]]:
    """The runs, the weights that they share, and what tells them from other runs."""
    everyone, frozen, identity = [], None, {"RUNS": sorted(configs)}
    vocabulary = model.text_vocabulary("train on")
    # A state's rows are in order of the names, so RUNS may be given in any.
    for name, config in sorted(configs.items()):
        task = load_task(config, model.vocabulary)
        lengths = check_task(config, task, vocabulary)
        params = start_params(config, model, task)
        parts = split_params(params, rules_at(config, DEFAULT_RATE))
        if set(parts[0]) != {PROMPT_NAME}:
            raise ValueError(
                f"Runs together share the model's weights, so only {PROMPT_NAME!r} can "
                f"train, not {', '.join(sorted(parts[0]))}."
            )
        mine = run_identity(config, model, task, *parts)
        identity |= {f"{name}: {key}": value for key, value in mine.items()}
        trainable, placed = place(mesh, model, *parts)
        frozen = placed if frozen is None else frozen
        everyone.append(make_run(name, config, task, lengths, trainable, model, frozen, mesh))
    return everyone, frozen, identity


def make_run(
    name: str,
    config: TrainConfig,
    task: Task,
    lengths: Mapping[str, int],
    trainable: FlatParams,
    model: FrozenModel,
    frozen: FlatParams,
    mesh: Mesh,
) -> Run:
    model = on_mesh(model, frozen)
    reporter = Reporter(config, model, task, frozen, lengths)
    params = {**trainable, **frozen}
    batches = make_batches(config, task, model.vocabulary, lengths, params, mesh)
    return Run(
        name=name,
        config=config,
        task=task,
        start=trainable,
        batches=batches,
        reporter=reporter,
        data=batches.get_state(),
    )


def rules_at(config: TrainConfig, rate: Any) -> Sequence[optim.Rule]:
    """What trains, at a learning rate that may be traced."""
    return optim.prompt_rules(rate) if config.trainable is None else config.trainable


def start_stack(runs: Sequence[Run], config: TrainConfig) -> tuple[Any, Any, jax.Array]:
    """What trains [N, P, D], its optimizer's state, and whether each run is healthy [N]."""
    trainable = jax.tree.map(lambda *xs: jnp.stack(xs), *[run.start for run in runs])
    init = optim.make_optimizer(runs[0].start, rules_at(config, DEFAULT_RATE)).init
    return trainable, jax.jit(jax.vmap(init))(trainable), jnp.ones(len(runs), bool)


def make_step(config: TrainConfig, model: FrozenModel) -> Callable[..., Any]:
    """The compiled step of some runs at once, on one copy of the frozen weights.

    From (stack, frozen, batch [N, B, ...], dropout keys [N], learning rates [N], step number); the
    stack is updated in place. Also returns the metrics of each run, and their means.
    """
    step_one = step_function(config, model)

    def one(stack, frozen, batch, key, rate, step):
        trainable, opt_state, healthy = stack
        optimizer = optim.make_optimizer(trainable, rules_at(config, rate))
        key = jax.random.fold_in(key, step)
        *new, metrics = step_one(optimizer, trainable, opt_state, frozen, batch, key)
        healthy &= metrics["finite"]
        keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(healthy, new, old))
        return (*keep(tuple(new), (trainable, opt_state)), healthy), metrics

    @functools.partial(jax.jit, donate_argnums=0)
    def step_many(stack, frozen, batch, keys, rates, step):
        in_axes = (0, None, 0, 0, 0, None)
        stack, metrics = jax.vmap(one, in_axes)(stack, frozen, batch, keys, rates, step)
        overall = {name: metrics[name].mean() for name in ("loss", "gradient_norm")}
        return stack, metrics, overall | {"finite": True}

    return step_many


def seeds(runs: Sequence[Run]) -> jax.Array:
    """Every run's key for dropout."""
    return jnp.stack([jax.random.key(run.config.seed) for run in runs])


def learning_rates(runs: Sequence[Run]) -> jax.Array:
    rates = [run.config.learning_rate for run in runs]
    return jnp.array([DEFAULT_RATE if rate is None else rate for rate in rates], jnp.float32)


def many_sharding(mesh: Mesh) -> NamedSharding:
    """Each run's rows over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, *sharding.batch_sharding(mesh).spec))


def row(stack: tuple[Any, Any, Any], i: int) -> FlatParams:
    """What trains in one of the runs."""
    return {name: x[i] for name, x in stack[0].items()}


def take(stack: Any, rows: np.ndarray, mesh: Mesh) -> Any:
    """Copies of some runs' arrays, where a step leaves them: elsewhere it is compiled again."""
    return sharding.put(jax.tree.map(lambda x: x[rows], stack), sharding.replicated(mesh))


def put_back(stack: Any, rows: np.ndarray, part: Any) -> Any:
    """The stack with some runs' arrays replaced."""
    return jax.tree.map(lambda x, new: x.at[rows].set(new), stack, part)
