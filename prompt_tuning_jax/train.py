"""Training: prompt tuning, model tuning, or both, in one loop read from top to bottom.

    prompt-tuning train --gin_file=experiments/bundled_sentiment.gin \\
        --gin.MODEL_DIR=runs/sentiment

or, from Python,

    result = pt.train(task="bundled_sentiment", model_dir="runs/sentiment", prompt_length=20)
    model.classify(texts, verbalizers, prompt=result.prompt)

MODEL_DIR holds `best/` and `last/` (the prompt, or the tuned model), `prompts/STEP/` (the prompt
at step 0 and at each evaluation, which `interpret` reads), `history.json`, `tensorboard/`, and
`state/`, from which the same command continues after an interruption.
"""

import contextlib
import dataclasses
import functools
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from prompt_tuning_jax import command, hosts, initializers, monitor, optim, sharding
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.checkpoints.prompt_file import TunedPrompt, load_prompt
from prompt_tuning_jax.checkpoints.run_state import RunState
from prompt_tuning_jax.data import Task, TrainBatches
from prompt_tuning_jax.evaluate import load_checked_prompt
from prompt_tuning_jax.layout import LAYOUTS, VISIBILITIES
from prompt_tuning_jax.losses import weighted_loss
from prompt_tuning_jax.microbatches import in_microbatches
from prompt_tuning_jax.model import FrozenModel, apply, load_model
from prompt_tuning_jax.packing import PackedBatches
from prompt_tuning_jax.prefetch import Prefetcher
from prompt_tuning_jax.quantize import is_quantized
from prompt_tuning_jax.reporting import Reporter
from prompt_tuning_jax.scoring import choose_predictions
from prompt_tuning_jax.task_loading import TaskConfig, load_task
from prompt_tuning_jax.vocabulary import Vocabulary

LOSS_NORMALIZATIONS = ("sum", "mean")
# Settings that must be the same for a run to continue from its state.
IDENTITY = (
    "prompt_length",
    "prompt_layout",
    "prompt_visibility",
    "batch_size",
    "pack",
    "seed",
    "learning_rate",
    "dropout_rate",
    "z_loss",
    "loss_normalization",
    "data_dir",
    "train_file",
    "input_template",
)


@dataclasses.dataclass(frozen=True)
class TrainConfig(TaskConfig):
    """What a run takes; each field is a gin macro in capitals. The defaults are the paper's recipe.

    Attributes:
      model_dir: where the run writes, and continues from.
      train_steps: steps in all.
      batch_size: examples per step, over all devices.
      pack: whether a batch is the next BATCH_SIZE examples of the data, several in a row; by
        default it is examples of similar length, one in a row, which is usually faster.
      microbatches: how many parts of a batch go through the model one after the other, with one
        update for all: the same step in less memory.
      prompt_length: P; 0 for no prompt (model tuning).
      prompt_layout: "prefix", "after_bos", "suffix" or "suffix_before_eos".
      prompt_visibility: what the prompt may attend to: "full", "causal", "self", "isolated",
        "isolated_causal" or "isolated_self"; an isolated prompt is computed once per step.
      prompt_init: an initializer, "uniform", "sampled_vocabulary", "class_labels", "text: ...", or
        a prompt file. None: class labels where the task declares verbalizers, else sampled
        vocabulary.
      shared_prompt: a prompt that stands, frozen, before the one that is tuned; the prompt that the
        run writes is both. None: no such prompt.
      trainable: rules (regex, optax optimizer); what none matches is frozen. None: the prompt, or
        everything where prompt_length is 0.
      learning_rate: of the default optimizer. None: 0.3 for a prompt, 0.001 for a model.
      loss_normalization: "sum" over target tokens, as T5X, or their "mean".
      dropout_rate, z_loss, seed: as in T5X.
      eval_period, checkpoint_period, log_period: in steps.
      patience: how many evaluations without a better score end the run early; None for none.
      eval_split: what is evaluated on.
      eval_limit: how many validation examples to evaluate on; None for all.
      predictions: "rank" or "generate"; None: rank where there are verbalizers.
      mesh: such as "data:4,model:2"; -1 takes the remaining devices.
      model_dtype: of the frozen weights and the activations, "float32" or "bfloat16"; "int8" is
        for the weights alone and takes a quarter of float32's memory.
      quiet: no progress bar.
      runs: several prompts at once, each with settings of its own: {"name": {"RANDOM_SEED": 1}};
        see `train_many`.
    """

    model_dir: str | None = None
    train_steps: int = 30_000
    batch_size: int = 32
    pack: bool = False
    microbatches: int = 1
    prompt_length: int = 100
    prompt_layout: str = "prefix"
    prompt_visibility: str = "full"
    prompt_init: Any = None
    shared_prompt: str | None = None
    trainable: Sequence[optim.Rule] | None = None
    learning_rate: float | None = None
    loss_normalization: str = "sum"
    dropout_rate: float = 0.1
    z_loss: float = 1e-4
    seed: int = 0
    eval_period: int = 1000
    patience: int | None = None
    eval_split: str = "validation"
    eval_limit: int | None = None
    checkpoint_period: int = 1000
    log_period: int = 50
    predictions: str | None = None
    mesh: str = "data:-1"
    model_dtype: Any = np.float32
    quiet: bool = False
    runs: Mapping[str, Mapping[str, Any]] | None = None


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
    mesh, model = sharding.make_mesh(config.mesh), config.model
    if not isinstance(model, FrozenModel):
        verbose = hosts.is_first() and not config.quiet
        model = load_model(model, config.model_dtype, verbose, config.vocabulary, mesh)
    task = load_task(config, model)
    lengths = check_task(config, task)
    vocabulary = model.text_vocabulary("train on")

    model = model.replace(mesh=mesh if mesh.size > 1 else None)
    rules = trainable_rules(config)
    parts = optim.split_params(start_params(config, model, task), rules)
    check_prompt_trains(config, parts[1])
    check_floats_train(config, *parts)
    identity = run_identity(config, model, task, *parts)
    trainable, frozen = place(mesh, model, *parts)
    # From here on the model is what is frozen, where the mesh holds it; no other copy stays alive.
    model, parts = model.replace(params=optim.unflatten(optim.without_prompt(frozen))), None
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
    reporter = Reporter(
        model_dir=model_dir,
        model=model,
        task=task,
        frozen=frozen,
        layout=config.prompt_layout,
        visibility=config.prompt_visibility,
        split=config.eval_split,
        predictions=config.predictions,
        feature_lengths=lengths,
        batch_size=config.batch_size,
        limit=config.eval_limit,
    )
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


def check_settings(config: TrainConfig) -> Path:
    """Everything that can be checked without loading anything; returns the run's directory."""
    if config.model_dir is None:
        raise ValueError("Set MODEL_DIR, the directory this run writes to.")
    counts = ("train_steps", "batch_size", "microbatches")
    for name in (*counts, "eval_period", "checkpoint_period", "log_period"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name.upper()} must be at least 1, got {getattr(config, name)}.")
    if config.patience is not None and config.patience < 1:
        raise ValueError(f"PATIENCE must be at least 1 evaluation, got {config.patience}.")
    if config.prompt_length < 0:
        raise ValueError(f"PROMPT_LENGTH must be 0 or more, got {config.prompt_length}.")
    if config.shared_prompt is not None and not config.prompt_length:
        raise ValueError("SHARED_PROMPT stands before a prompt: set PROMPT_LENGTH above 0.")
    if config.loss_normalization not in LOSS_NORMALIZATIONS:
        raise ValueError(
            f"LOSS_NORMALIZATION must be one of {LOSS_NORMALIZATIONS}, got "
            f"{config.loss_normalization!r}."
        )
    if not 0 <= config.dropout_rate < 1:
        raise ValueError(f"DROPOUT_RATE must be in [0, 1), got {config.dropout_rate}.")
    if config.prompt_layout not in LAYOUTS:
        raise ValueError(
            f"PROMPT_LAYOUT must be one of {', '.join(LAYOUTS)}, got {config.prompt_layout!r}."
        )
    if config.prompt_visibility not in VISIBILITIES:
        raise ValueError(
            f"PROMPT_VISIBILITY must be one of {', '.join(VISIBILITIES)}, got "
            f"{config.prompt_visibility!r}."
        )
    parts = sharding.batch_parts(sharding.make_mesh(config.mesh))
    if config.batch_size % parts:
        raise ValueError(
            f"BATCH_SIZE {config.batch_size} does not divide over the {parts} devices that MESH "
            f"{config.mesh!r} gives to data and fsdp."
        )
    if config.batch_size % (parts * config.microbatches):
        raise ValueError(
            f"BATCH_SIZE {config.batch_size} does not divide into MICROBATCHES "
            f"{config.microbatches} parts" + (f", each over {parts} devices." if parts > 1 else ".")
        )
    path = Path(config.model_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"MODEL_DIR {path} cannot be written: {error}.") from error
    return path


def check_task(config: TrainConfig, task: Task) -> dict[str, int]:
    """Checks the splits and how to evaluate; returns the feature lengths."""
    task.split("train")
    # A task may have no validation split, but a split that was asked for must be there.
    if config.eval_split in task.splits or config.eval_split != TrainConfig.eval_split:
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


def make_batches(
    config: TrainConfig,
    task: Task,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    params: optim.FlatParams,
    mesh: Mesh,
) -> TrainBatches:
    """The training split's batches, each of `batch_size` examples."""
    source = task.split("train")
    common = {"batch_size": config.batch_size, "lengths": lengths, "seed": config.seed}
    if not config.pack:
        return TrainBatches(source, vocabulary, **common)
    prompts = (optim.SHARED_NAME, optim.PROMPT_NAME)
    return PackedBatches(
        source,
        vocabulary,
        **common,
        prompt_length=sum(len(params[name]) for name in prompts if name in params),
        layout=config.prompt_layout,
        row_multiple=sharding.batch_parts(mesh) * config.microbatches,
    )


def is_done(
    config: TrainConfig, step: int, history: Sequence[Any], best: Mapping[str, Any] | None
) -> bool:
    """Whether a run has had its steps, or has waited long enough for a better score."""
    if step >= config.train_steps:
        return True
    if config.patience is None or best is None:
        return False
    return sum(scores["step"] > best["step"] for scores in history) >= config.patience


def trainable_rules(config: TrainConfig) -> Sequence[optim.Rule]:
    """The rules asked for, or those of prompt tuning or model tuning."""
    if config.trainable is not None:
        return config.trainable
    rate = {} if config.learning_rate is None else {"learning_rate": config.learning_rate}
    if config.prompt_length:
        return optim.prompt_rules(**rate)
    return optim.model_rules(**rate)


def check_prompt_trains(config: TrainConfig, frozen: optim.FlatParams) -> None:
    """Refuses rules that leave the prompt where it starts."""
    if optim.PROMPT_NAME in frozen:
        raise ValueError(
            f"PROMPT_LENGTH is {config.prompt_length}, but no TRAINABLE rule matches "
            f"{optim.PROMPT_NAME!r}: add a rule for it, or set PROMPT_LENGTH=0."
        )


def check_floats_train(
    config: TrainConfig, trainable: optim.FlatParams, frozen: optim.FlatParams
) -> None:
    """Refuses to train weights of a model whose others are int8, which cannot be saved."""
    if is_quantized(frozen | trainable) and set(trainable) != {optim.PROMPT_NAME}:
        raise ValueError(
            f"MODEL_DTYPE is {config.model_dtype}, and with int8 weights only the prompt can "
            "train: use 'float32' or 'bfloat16', or leave PROMPT_LENGTH above 0 and TRAINABLE "
            "unset."
        )


def start_params(config: TrainConfig, model: FrozenModel, task: Task) -> Mapping[str, Any]:
    """The model's weights, and the initialised prompt among them."""
    if not config.prompt_length:
        return model.params
    initializer = initializers.resolve(
        config.prompt_init, model.embeddings, model.vocabulary, task.verbalizers
    )
    shape = (config.prompt_length, model.config.emb_dim)
    prompt = initializer(jax.random.key(config.seed), shape)
    params = model.prompted(sharding.to_host(prompt)).params
    if config.shared_prompt is not None:
        params["encoder"]["prompt"]["shared"] = shared_values(config, model)
    return params


def shared_values(config: TrainConfig, model: FrozenModel) -> jax.Array:
    """The rows [P0, D] of the shared prompt, which must fit the model and the layout."""
    shared = load_checked_prompt(config.shared_prompt, model, allow_mismatch=False)
    for name in ("layout", "visibility"):
        theirs, ours = getattr(shared, name), getattr(config, f"prompt_{name}")
        if theirs != ours:
            raise ValueError(
                f"SHARED_PROMPT {config.shared_prompt} has the {name} {theirs!r}: set "
                f"PROMPT_{name.upper()} to that, it is {ours!r}."
            )
    return jnp.asarray(shared.values)


def place(
    mesh: Any, model: FrozenModel, trainable: optim.FlatParams, frozen: optim.FlatParams
) -> tuple[optim.FlatParams, optim.FlatParams]:
    """Both parts on the mesh; what trains is float32, whatever the frozen weights' dtype.

    Trainable arrays are copies, since the step donates them; frozen ones are not.
    """
    masters = {name: jnp.array(x, jnp.float32, copy=True) for name, x in trainable.items()}
    masters = sharding.put(masters, sharding.param_shardings(mesh, model.config, masters))
    return masters, sharding.put(frozen, sharding.param_shardings(mesh, model.config, frozen))


def start_optimizer(
    mesh: Any, model: FrozenModel, optimizer: optax.GradientTransformation, trainable: Any
) -> Any:
    """The optimizer's first state, each part of it where its parameter is."""
    shapes = jax.eval_shape(optimizer.init, trainable)
    places = sharding.param_shardings(mesh, model.config, shapes)
    return jax.jit(optimizer.init, out_shardings=places)(trainable)


def make_train_step(
    config: TrainConfig, model: FrozenModel, optimizer: optax.GradientTransformation
) -> Callable[..., Any]:
    """The compiled step, from (trainable, opt_state, frozen, batch, dropout key).

    Returns (trainable, opt_state, metrics); the first two are updated in place.
    """
    step = functools.partial(step_function(config, model), optimizer)
    return jax.jit(step, donate_argnums=(0, 1))


def step_function(config: TrainConfig, model: FrozenModel) -> Callable[..., Any]:
    """The step, from (optimizer, trainable, opt_state, frozen, batch, dropout key), to compile.

    A step whose loss, gradient or update is not finite changes nothing.
    """
    t5 = dataclasses.replace(
        model.config,
        dropout_rate=config.dropout_rate,
        prompt_visibility=config.prompt_visibility,
    )
    layout, z_loss = config.prompt_layout, config.z_loss

    def loss_fn(trainable: Any, frozen: Any, batch: Any, key: Any) -> Any:
        """The loss summed over target tokens, and the sum of their weights."""
        with sharding.active(model.mesh):
            logits = apply(t5, optim.merge_params(trainable, frozen), batch, layout, key)
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        return weighted_loss(logits, targets, weights, z_loss), weights.sum()

    gradients = in_microbatches(jax.value_and_grad(loss_fn, has_aux=True), config.microbatches)

    def step(
        optimizer: Any, trainable: Any, opt_state: Any, frozen: Any, batch: Any, key: Any
    ) -> Any:
        key = key if config.dropout_rate else None
        (total, tokens), grads = gradients(trainable, frozen, batch, key)
        if config.loss_normalization == "mean":
            grads = jax.tree.map(lambda g: g / tokens, grads)
        updates, new_state = optimizer.update(grads, opt_state, trainable)
        updated = optax.apply_updates(trainable, updates)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(jnp.stack([total, norm, optax.global_norm(updates)])).all()
        keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
        metrics = {"loss": total / tokens, "gradient_norm": norm, "finite": finite}
        kept = keep(updated, trainable), keep(new_state, opt_state)
        return *sharding.constrain(model.mesh, model.config, kept), metrics

    return step


def run_identity(
    config: TrainConfig,
    model: FrozenModel,
    task: Task,
    trainable: optim.FlatParams,
    frozen: optim.FlatParams,
) -> dict[str, Any]:
    """What makes two runs the same run; a saved state is continued only by its own."""
    lengths = config.feature_lengths and dict(config.feature_lengths)
    settings = {name: getattr(config, name) for name in IDENTITY}
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    if config.shared_prompt is not None:
        shared = {**frozen, **trainable}[optim.SHARED_NAME]
        settings["shared_prompt"] = fingerprint({"shared": shared})
    return settings | {
        "feature_lengths": lengths,
        "initial_checkpoint_path": model.fingerprint,
        "mixture_or_task_name": task.name,
        "trainable": sorted(trainable),
    }


def read_result(
    model_dir: Path, model: FrozenModel, history: list[dict[str, float]], dtype: Any
) -> TrainResult:
    """The best prompt and model, read back from what the run wrote."""
    hosts.wait_for_all("results")
    best = model_dir / "best"
    prompt = load_prompt(best) if (best / "prompt.safetensors").exists() else None
    if (best / "config.json").exists():
        model = load_model(best, dtype, mesh=model.mesh)
    return TrainResult(prompt, history, model)


def main(argv: list[str] | None = None) -> None:
    config = command.parse(TrainConfig, argv, __doc__)
    from prompt_tuning_jax.train_many import train_many  # it is made of what stands above

    with hosts.connected():
        train(config) if config.runs is None else train_many(config.runs, config)


if __name__ == "__main__":
    command.run(main)
