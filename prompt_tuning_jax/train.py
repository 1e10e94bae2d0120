"""Training: prompt tuning, model tuning, or both, in one loop read from top to bottom.

    result = pt.train(task="bundled_sentiment", model_dir="runs/sentiment", prompt_length=20)
    model.classify(texts, verbalizers, prompt=result.prompt)

The run's directory holds `best/` and `last/` (the prompt, or the tuned model), `prompts/STEP/` (the
prompt at step 0 and at each evaluation, which `interpret` reads), `history.json`, `tensorboard/`,
and `state/`, from which the same call continues after an interruption.
"""

import contextlib
import dataclasses
import signal
import sys
from typing import Any

import jax

from prompt_tuning_jax import optim
from prompt_tuning_jax.checkpoints.run_state import RunState
from prompt_tuning_jax.data.prefetch import Prefetcher
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.params import split_params
from prompt_tuning_jax.settings.task_config import load_task
from prompt_tuning_jax.settings.train_config import (
    TrainConfig,
    check_settings,
    check_task,
    is_done,
    run_identity,
    trainable_rules,
)
from prompt_tuning_jax.training import monitor
from prompt_tuning_jax.training.outputs import Reporter
from prompt_tuning_jax.training.set_up import (
    TrainResult,
    check_prompt_trains,
    check_weights_train,
    make_batches,
    on_mesh,
    open_model,
    place,
    read_result,
    start_optimizer,
    start_params,
)
from prompt_tuning_jax.training.train_step import make_train_step


def train(config: TrainConfig | None = None, **options: Any) -> TrainResult:
    """Runs, or continues, the training that `config` and its fields as keywords describe.

    Raises:
      ValueError: a setting is wrong; all are checked before anything slow starts.
      NotFiniteError: NaN; `last/` then holds the last good prompt.
    """
    config = dataclasses.replace(config or TrainConfig(), **options)
    if config.runs is not None:
        raise ValueError("runs are several runs: call train_many(runs, ...).")
    model_dir = check_settings(config)
    mesh = sharding.make_mesh(config.mesh)
    model = open_model(config, mesh)
    task = load_task(config, model.vocabulary)
    vocabulary = model.text_vocabulary("train on")
    lengths = check_task(config, task, vocabulary)

    rules = trainable_rules(config)
    parts = split_params(start_params(config, model, task), rules)
    check_prompt_trains(config, parts[1])
    check_weights_train(model, *parts)
    identity = run_identity(config, model, task, *parts)
    trainable, frozen = place(mesh, model, *parts)
    # From here on the model is what is frozen, where the mesh holds it; no other copy stays alive.
    model, parts = on_mesh(model, frozen), None
    optimizer = optim.make_optimizer(trainable, rules)
    opt_state = start_optimizer(mesh, model, optimizer, trainable)
    train_step = make_train_step(config, model, optimizer)
    dropout_key = jax.random.key(config.seed)
    batches = make_batches(config, task, vocabulary, lengths, {**trainable, **frozen}, mesh)

    step, history, best = 0, [], None
    state = RunState(model_dir, identity)
    if (latest := state.latest_step()) is not None:
        (trainable, opt_state), saved = state.restore(latest, (trainable, opt_state))
        batches.set_state(saved["data"])
        step, history, best = latest, saved["history"], saved["best"]
    reporter = Reporter(config, model, task, frozen, lengths)
    watch = monitor.Monitor(model_dir, step, config.train_steps, config.log_period, config.quiet)
    if step == 0:
        reporter.keep_prompt(trainable, {"step": 0})

    with contextlib.closing(state), contextlib.closing(watch), hosts.stop_signal() as stop:
        with Prefetcher(batches) as prefetched:
            while not is_done(config, step, history, best):
                batch, data = next(prefetched)
                batch = sharding.put(batch, sharding.batch_sharding(mesh))
                trainable, opt_state, metrics = train_step(
                    trainable, opt_state, frozen, batch, jax.random.fold_in(dropout_key, step)
                )
                step += 1
                try:
                    watch.dispatched(step, metrics, config.batch_size)
                    last = step == config.train_steps
                    if reporter.can_evaluate and (last or step % config.eval_period == 0):
                        watch.finish_step()
                        history.append(scores := reporter.evaluate(step, trainable, watch))
                        reporter.keep_prompt(trainable, scores)
                        if best is None or reporter.is_better(scores, best):
                            best = scores
                            reporter.save("best", trainable, best)
                    done = is_done(config, step, history, best)
                    stopping = stop(step) and not done
                    if done or stopping or step % config.checkpoint_period == 0:
                        watch.finish_step()
                        # The list is a copy: it is written while the run goes on.
                        now = {"data": data, "history": list(history), "best": best}
                        state.save(step, (trainable, opt_state), **now)
                except monitor.NotFiniteError:
                    reporter.save("last", trainable, {"step": step})
                    raise
                if stopping:
                    break
        if not is_done(config, step, history, best):
            state.close()
            watch.say(f"Stopped at step {step}; the same command continues from here.")
            sys.exit(128 + signal.SIGTERM)
        reporter.finish(step, trainable, history, best, batches, watch)
    return read_result(model_dir, model, history, config.model_dtype)
