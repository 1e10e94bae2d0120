"""Training: prompt tuning, model tuning, or both, in one loop read from top to bottom.

    python -m prompt_tuning_jax.train --gin_file=experiments/bundled_sentiment.gin \\
        --gin.MODEL_DIR=runs/sentiment

or, from Python,

    result = pt.train(task="bundled_sentiment", model_dir="runs/sentiment", prompt_length=20)
    model.classify(texts, verbalizers, prompt=result.prompt)

MODEL_DIR holds `best/` and `last/` (the prompt, or the tuned model), `history.json`,
`tensorboard/`, and `state/`, from which the same command continues after an interruption.
"""

import contextlib
import dataclasses
import functools
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from prompt_tuning_jax import command, initializers, monitor, optim, sharding
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.checkpoints.prompt_file import TunedPrompt, load_prompt, save_prompt
from prompt_tuning_jax.checkpoints.run_state import RunState
from prompt_tuning_jax.data import Task, TrainBatches
from prompt_tuning_jax.evaluate import Evaluation, choose_predictions, evaluate_task
from prompt_tuning_jax.losses import weighted_loss
from prompt_tuning_jax.model import FrozenModel, apply, load_model
from prompt_tuning_jax.optim import PROMPT_NAME
from prompt_tuning_jax.prefetch import Prefetcher
from prompt_tuning_jax.task_loading import TaskConfig, load_task

LOSS_NORMALIZATIONS = ("sum", "mean")
# What must be the same for a run to continue from its state.
IDENTITY = ("prompt_length", "prompt_layout", "batch_size", "seed", "feature_lengths", "dropout_rate")


@dataclasses.dataclass(frozen=True)
class TrainConfig(TaskConfig):
    """What a run takes; each field is a gin macro in capitals. The defaults are the paper's recipe.

    Attributes:
      model_dir: where the run writes, and continues from.
      train_steps: steps in all.
      batch_size: examples per step, over all devices.
      prompt_length: P; 0 for no prompt (model tuning).
      prompt_layout: "prefix", "after_bos", "suffix" or "suffix_before_eos".
      prompt_init: an initializer, "uniform", "sampled_vocabulary", "class_labels", "text: ...", or
        a prompt file. None: class labels where the task declares verbalizers, else sampled
        vocabulary.
      trainable: rules (regex, optax optimizer); what none matches is frozen. None: the prompt, or
        everything where prompt_length is 0.
      learning_rate: of the default optimizer. None: 0.3 for a prompt, 0.001 for a model.
      loss_normalization: "sum" over target tokens, as T5X, or their "mean".
      dropout_rate, z_loss, seed: as in T5X.
      eval_period, checkpoint_period, log_period: in steps.
      eval_limit: how many validation examples to evaluate on; None for all.
      predictions: "rank" or "generate"; None: rank where there are verbalizers.
      mesh: such as "data:4,model:2"; -1 takes the remaining devices.
      model_dtype: of the frozen weights and the activations.
      quiet: no progress bar.
    """

    model_dir: str | None = None
    train_steps: int = 30_000
    batch_size: int = 32
    prompt_length: int = 100
    prompt_layout: str = "prefix"
    prompt_init: Any = None
    trainable: Sequence[optim.Rule] | None = None
    learning_rate: float | None = None
    loss_normalization: str = "sum"
    dropout_rate: float = 0.1
    z_loss: float = 1e-4
    seed: int = 0
    eval_period: int = 1000
    eval_split: str = "validation"
    eval_limit: int | None = None
    checkpoint_period: int = 1000
    log_period: int = 50
    predictions: str | None = None
    mesh: str = "data:-1"
    model_dtype: Any = np.float32
    quiet: bool = False


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The best prompt by the validation metric (None in model tuning), and every evaluation.

    `prompt, history = train(...)` unpacks it. `model` is the model the prompt belongs to: frozen,
    or with the tuned weights of the best evaluation.
    """

    prompt: TunedPrompt | None
    history: list[dict[str, float]]
    model: FrozenModel

    def __iter__(self) -> Iterator[Any]:
        return iter((self.prompt, self.history))


def train(config: TrainConfig | None = None, **options: Any) -> TrainResult:
    """Runs, or continues, the training that `config` (or its fields as keywords) describes.

    Raises:
      ValueError: a setting is wrong; all are checked before anything slow starts.
      NotFiniteError: NaN; `last/` then holds the last good prompt.
    """
    config = config or TrainConfig(**options)
    model_dir = check_settings(config)
    model = config.model
    if not isinstance(model, FrozenModel):
        model = load_model(model, config.model_dtype)
    task = load_task(config, model)
    lengths = check_task(config, task)
    mesh = sharding.make_mesh(config.mesh)
    model = model.replace(mesh=mesh if mesh.size > 1 else None)
    rules = trainable_rules(config)
    trainable, frozen = place(mesh, model, *optim.split_params(start_params(config, model, task), rules))
    optimizer = optim.make_optimizer(trainable, rules)
    opt_state = jax.device_put(jax.jit(optimizer.init)(trainable), sharding.replicated(mesh))
    step_fn = make_train_step(config, model, optimizer)
    batches = TrainBatches(
        task.split("train"), model.vocabulary, batch_size=config.batch_size, lengths=lengths, seed=config.seed
    )
    state = RunState(model_dir)
    identity = run_identity(config, model, task, trainable)
    step, history, best = 0, [], None
    if (latest := state.latest_step()) is not None:
        meta = state.meta(latest)
        check_identity(meta["identity"], identity, model_dir)
        trainable, opt_state = state.restore(latest, (trainable, opt_state))
        batches.set_state(meta["data"])
        step, history, best = latest, meta["history"], meta["best"]
    report = Reporter(config, model, task, frozen, lengths, model_dir)
    watch = monitor.Monitor(model_dir, step, config.train_steps, config.log_period, config.quiet)
    saved_step = step
    with contextlib.closing(state), contextlib.closing(watch), stop_on_sigterm() as stop:
        with Prefetcher(batches) as prefetched:
            try:
                while step < config.train_steps and not stop.requested:
                    batch, data_state = next(prefetched)
                    batch = jax.device_put(batch, sharding.batch_sharding(mesh))
                    trainable, opt_state, metrics = step_fn(
                        trainable, opt_state, frozen, batch, np.int32(step)
                    )
                    step += 1
                    watch.dispatched(step, metrics, config.batch_size)
                    last = step == config.train_steps
                    if report.has_eval and (last or step % config.eval_period == 0):
                        watch.finish_step()
                        entry = report.evaluate(step, trainable, watch)
                        history.append(entry)
                        if best is None or report.better(entry, best):
                            best = entry
                            report.save("best", trainable, entry)
                    if last or step % config.checkpoint_period == 0:
                        watch.finish_step()
                        meta = {"identity": identity, "data": data_state, "history": history, "best": best}
                        state.save(step, (trainable, opt_state), meta)
                        saved_step = step
                watch.finish_step()
            except monitor.NotFiniteError:
                report.save("last", trainable, {"step": step})
                raise
        if step > saved_step:
            meta = {"identity": identity, "data": data_state, "history": history, "best": best}
            state.save(step, (trainable, opt_state), meta)
        if stop.requested:
            watch.say(f"Stopped at step {step}; the same command continues from here.")
            state.close()
            sys.exit(128 + signal.SIGTERM)
        truncated = {"inputs": batches.truncated_inputs, "targets": batches.truncated_targets}
        report.finish(trainable, best or {"step": step}, history, truncated, watch)
    return report.result(history)


def check_settings(config: TrainConfig) -> Path:
    """Everything that can be checked without loading anything; returns the run's directory."""
    if config.model_dir is None:
        raise ValueError("Set MODEL_DIR, the directory this run writes to.")
    for name in ("train_steps", "batch_size", "eval_period", "checkpoint_period", "log_period"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name.upper()} must be at least 1, got {getattr(config, name)}.")
    if config.prompt_length < 0:
        raise ValueError(f"PROMPT_LENGTH must be 0 or more, got {config.prompt_length}.")
    if config.loss_normalization not in LOSS_NORMALIZATIONS:
        raise ValueError(
            f"LOSS_NORMALIZATION must be one of {LOSS_NORMALIZATIONS}, got "
            f"{config.loss_normalization!r}."
        )
    if not 0 <= config.dropout_rate < 1:
        raise ValueError(f"DROPOUT_RATE must be in [0, 1), got {config.dropout_rate}.")
    devices = jax.device_count()
    if config.batch_size % sharding.make_mesh(config.mesh).shape["data"]:
        raise ValueError(f"BATCH_SIZE {config.batch_size} does not divide over {devices} devices.")
    path = Path(config.model_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"MODEL_DIR {path} cannot be written: {error}.") from error
    return path


def check_task(config: TrainConfig, task: Task) -> dict[str, int]:
    """Checks the splits and how to evaluate; returns the feature lengths."""
    task.split("train")
    if config.eval_split in task.splits:
        task.split(config.eval_split)
        if task.metrics:
            choose_predictions(task, config.predictions)
    lengths = dict(config.feature_lengths or {"inputs": 512, "targets": 64})
    if set(lengths) != {"inputs", "targets"}:
        raise ValueError(
            "TASK_FEATURE_LENGTHS must give 'inputs' and 'targets', such as "
            f"{{'inputs': 512, 'targets': 16}}, got {lengths}."
        )
    return lengths


def trainable_rules(config: TrainConfig) -> Sequence[optim.Rule]:
    """The rules asked for, or those of prompt tuning or model tuning."""
    if config.trainable is not None:
        return config.trainable
    if config.prompt_length:
        return optim.prompt_rules(config.learning_rate or 0.3)
    return optim.model_rules(config.learning_rate or 0.001)


def start_params(config: TrainConfig, model: FrozenModel, task: Task) -> Mapping[str, Any]:
    """The model's weights, and the initialised prompt among them."""
    if not config.prompt_length:
        return model.params
    initializer = initializers.resolve(
        config.prompt_init, model.embeddings, model.vocabulary, task.verbalizers
    )
    shape = (config.prompt_length, model.config.emb_dim)
    prompt = initializer(jax.random.key(config.seed), shape)
    params, _ = model.prompted(TunedPrompt(np.asarray(prompt), config.prompt_layout, {}))
    return params


def place(
    mesh: Any, model: FrozenModel, trainable: optim.FlatParams, frozen: optim.FlatParams
) -> tuple[optim.FlatParams, optim.FlatParams]:
    """Both parts on the mesh; what trains is float32, whatever the frozen weights' dtype.

    Trainable arrays are copies, since the step donates them; frozen ones are not.
    """
    masters = {name: jnp.array(x, jnp.float32, copy=True) for name, x in trainable.items()}
    masters = jax.device_put(masters, sharding.param_shardings(mesh, model.config, masters))
    return masters, jax.device_put(frozen, sharding.param_shardings(mesh, model.config, frozen))


def make_train_step(
    config: TrainConfig, model: FrozenModel, optimizer: optax.GradientTransformation
) -> Callable[..., Any]:
    """The compiled step: (trainable, opt_state, frozen, batch, step) -> (trainable, opt_state, metrics).

    A step whose loss or gradient is not finite changes nothing.
    """
    t5 = dataclasses.replace(model.config, dropout_rate=config.dropout_rate)
    layout, z_loss = config.prompt_layout, config.z_loss
    base_key = jax.random.key(config.seed)

    def loss_fn(trainable: Any, frozen: Any, batch: Any, key: Any) -> Any:
        logits = apply(t5, optim.merge_params(trainable, frozen), batch, layout, key)
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        total, tokens = weighted_loss(logits, targets, weights, z_loss), weights.sum()
        return (total if config.loss_normalization == "sum" else total / tokens), (total, tokens)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train_step(trainable: Any, opt_state: Any, frozen: Any, batch: Any, step: Any) -> Any:
        key = jax.random.fold_in(base_key, step) if config.dropout_rate else None
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        (_, (total, tokens)), grads = value_and_grad(trainable, frozen, batch, key)
        updates, new_state = optimizer.update(grads, opt_state, trainable)
        updated = optax.apply_updates(trainable, updates)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(total) & jnp.isfinite(norm)
        keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
        metrics = {"loss": total / tokens, "gradient_norm": norm, "finite": finite}
        return keep(updated, trainable), keep(new_state, opt_state), metrics

    return train_step


def run_identity(config: TrainConfig, model: FrozenModel, task: Task, trainable: Any) -> dict[str, Any]:
    """What makes two runs the same run."""
    settings = {name: getattr(config, name) for name in IDENTITY}
    return {
        **settings,
        "feature_lengths": config.feature_lengths and dict(config.feature_lengths),
        "model": model.fingerprint,
        "task": task.name,
        "trainable": sorted(trainable),
    }


def check_identity(saved: Mapping[str, Any], mine: Mapping[str, Any], model_dir: Path) -> None:
    """Refuses to continue another run's state."""
    mine = json.loads(json.dumps(mine))
    differing = [name for name in mine if saved.get(name) != mine[name]]
    if differing:
        changes = ", ".join(f"{n} {saved.get(n)!r} (now {mine[n]!r})" for n in differing[:3])
        raise ValueError(
            f"{model_dir} holds a run with {changes}: set it back to continue that run, or give "
            "this one another MODEL_DIR."
        )


class Reporter:
    """Evaluates what trains, and writes it."""

    def __init__(
        self,
        config: TrainConfig,
        model: FrozenModel,
        task: Task,
        frozen: optim.FlatParams,
        lengths: dict[str, int],
        model_dir: Path,
    ):
        self._config, self._model, self._task = config, model, task
        self._frozen, self._lengths, self._dir = frozen, lengths, model_dir
        self.has_eval = config.eval_split in task.splits
        self.metric = task.best_metric if task.metrics else "loss"

    def better(self, entry: Mapping[str, float], best: Mapping[str, float]) -> bool:
        """Whether `entry` beats `best`; on a tie the earlier one stays."""
        sign = -1 if self.metric == "loss" else 1
        return sign * entry[self.metric] > sign * best[self.metric]

    def evaluate(self, step: int, trainable: optim.FlatParams, watch: monitor.Monitor) -> dict[str, Any]:
        """Scores the validation split, logs the scores, and warns of a collapse."""
        started = time.perf_counter()
        model, prompt = self._split(trainable)
        result: Evaluation = evaluate_task(
            model,
            self._task,
            self._config.eval_split,
            prompt,
            predictions=self._config.predictions,
            feature_lengths=self._lengths,
            batch_size=self._config.batch_size,
            limit=self._config.eval_limit,
        )
        scores = dict(result.scores)
        if prompt is not None:
            signs = monitor.prompt_signs(jnp.asarray(prompt.values), model.embeddings)
            scores |= {name: float(x) for name, x in signs.items()}
        watch.scalars(step, self._config.eval_split, scores)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        seconds = time.perf_counter() - started
        watch.say(f"step {step}  train loss {watch.loss:.4f}  {shown}  ({seconds:.1f} s)")
        if warning := monitor.collapse_warning(result):
            watch.say(f"warning: {warning}")
        return {"step": step, "train_loss": watch.loss, **scores}

    def save(self, name: str, trainable: optim.FlatParams, entry: Mapping[str, Any]) -> None:
        """Writes the prompt, the tuned model, or both, to `model_dir/name`."""
        model, prompt = self._split(trainable)
        if set(trainable) - {PROMPT_NAME}:
            huggingface.save(self._dir / name, model.config, model.params, model.vocabulary)
        if prompt is None:
            return
        scores = {k: v for k, v in entry.items() if k != "step"}
        save_prompt(
            self._dir / name,
            prompt,
            base_model=model.name,
            fingerprint=model.fingerprint,
            vocabulary_hash=model.vocabulary.fingerprint if model.vocabulary else None,
            task=self._task.name,
            verbalizers=list(self._task.verbalizers or ()),
            step=entry["step"],
            scores=scores,
        )

    def finish(
        self,
        trainable: optim.FlatParams,
        best: Mapping[str, Any],
        history: list[dict[str, Any]],
        truncated: Mapping[str, int],
        watch: monitor.Monitor,
    ) -> None:
        """Writes what a finished run leaves behind, and says where."""
        last = history[-1] if history else best
        self.save("last", trainable, last)
        if not self.has_eval:
            self.save("best", trainable, last)
        (self._dir / "history.json").write_text(json.dumps(history, indent=1))
        for feature, count in truncated.items():
            if count:
                limit = self._lengths[feature]
                watch.say(f"{count} training {feature} were cut to {limit} tokens.")
        where = self._dir / "best"
        score = f", {self.metric} {best[self.metric]:.4g}" if self.metric in best else ""
        watch.say(f"best: step {best['step']}{score}, in {where}")

    def result(self, history: list[dict[str, Any]]) -> TrainResult:
        """The best prompt and model, read back from what was written."""
        best = self._dir / "best"
        prompt = load_prompt(best) if (best / "prompt.safetensors").exists() else None
        model = self._model
        if (best / "config.json").exists():
            model = load_model(best, self._config.model_dtype)
        return TrainResult(prompt, history, model)

    def _split(self, trainable: optim.FlatParams) -> tuple[FrozenModel, TunedPrompt | None]:
        """The model without the prompt, and the prompt."""
        weights = {name: x for name, x in trainable.items() if name != PROMPT_NAME}
        model = self._model
        if weights:
            model = model.replace(params=optim.merge_params(weights, self._frozen))
        if PROMPT_NAME not in trainable:
            return model, None
        values = np.asarray(trainable[PROMPT_NAME])
        return model, TunedPrompt(values, self._config.prompt_layout, {})


class Stop:
    """Whether SIGTERM has arrived."""

    requested = False


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[Stop]:
    """While inside, SIGTERM asks the loop to save and exit instead of killing it."""
    stop = Stop()

    def request(*_: Any) -> None:
        stop.requested = True

    try:
        previous = signal.signal(signal.SIGTERM, request)
    except ValueError:  # not the main thread: signals are another's business
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)


def main(argv: list[str] | None = None) -> None:
    train(command.parse(TrainConfig, argv, __doc__))


if __name__ == "__main__":
    command.run(main)
