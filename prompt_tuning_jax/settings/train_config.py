"""What a training run takes: its settings, what is checked of them, and what tells runs apart."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax

from prompt_tuning_jax import optim
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.data.encoding import check_distinct
from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.data.vocabulary import Vocabulary
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.evaluation.scoring import PREDICTIONS, choose_predictions
from prompt_tuning_jax.layout import LAYOUTS, VISIBILITIES
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.t5.config import REMAT_POLICIES
from prompt_tuning_jax.settings.macros import check_least, macro_name
from prompt_tuning_jax.settings.task_config import TaskConfig, lengths_of

CHOICES = {
    "prompt_layout": LAYOUTS,
    "prompt_visibility": VISIBILITIES,
    "loss_normalization": ("sum", "mean"),
    "remat_policy": REMAT_POLICIES,
    "predictions": PREDICTIONS,
}
COUNTS = ("train_steps", "batch_size", "microbatches", "patience", "eval_limit")
PERIODS = ("eval_period", "checkpoint_period", "log_period")
LEAST = dict.fromkeys(COUNTS + PERIODS, 1) | dict.fromkeys(
    ("prompt_length", "seed", "attention_chunk"), 0
)
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
    "scan_layers",
    "z_loss",
    "loss_normalization",
    "feature_lengths",
    "data_dir",
    "train_file",
    "input_template",
    "target_template",
    "verbalizers",
    "columns",
    "metric",
    "positive",
    "eval_split",
    "eval_limit",
    "predictions",
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
      allow_prompt_mismatch: let `prompt_init` and `shared_prompt` be of another model.
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
      scan_layers: stack the layers' weights and compile one layer for all: a deep model compiles as
        fast as a shallow one, and with MESH's fsdp only one layer is whole at a time.
      remat_policy: what the backward pass computes again instead of keeping it in memory: "none",
        "minimal" (all but products with weights) or "full". None: as the model says, which is
        "none".
      attention_chunk: how many queries' attention scores are in memory at a time; 0 for all. None:
        as the model says: all in rows of at most 512, or in batches so small that a layer's scores
        take 32 MB or less, else 128.
      quiet: no progress bar, and no table of the model's weights.
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
    allow_prompt_mismatch: bool = False
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
    scan_layers: bool = False
    remat_policy: str | None = None
    attention_chunk: int | None = None
    quiet: bool = False
    runs: Mapping[str, Mapping[str, Any]] | None = None


def check_settings(config: TrainConfig) -> Path:
    """Everything that can be checked without loading anything; returns the run's directory."""
    if config.model_dir is None:
        raise ValueError("Set MODEL_DIR, the directory this run writes to.")
    if "://" in str(config.model_dir):
        raise ValueError(
            f"MODEL_DIR {config.model_dir} is no directory: mount the bucket, and name it by its "
            "path. (Under T5X, MODEL_DIR may be gs://...)"
        )
    check_least(config, LEAST)
    for rule in config.trainable or ():
        if not _is_rule(rule):
            raise ValueError(
                "TRAINABLE: a rule is (regular expression, optimizer), such as "
                f"('encoder/prompt/prompt', @adam()) with its parentheses, not {rule!r}."
            )
    if config.shared_prompt is not None and not config.prompt_length:
        raise ValueError("SHARED_PROMPT stands before a prompt: set PROMPT_LENGTH above 0.")
    if config.learning_rate is not None and config.trainable is not None:
        raise ValueError(
            "LEARNING_RATE is the default optimizer's: with TRAINABLE, give it to the optimizers "
            "that are named there."
        )
    for name, legal in CHOICES.items():
        if getattr(config, name) not in (*legal, getattr(TrainConfig, name)):
            raise ValueError(
                f"{name.upper()} must be one of {', '.join(legal)}, got {getattr(config, name)!r}."
            )
    if not 0 <= config.dropout_rate < 1:
        raise ValueError(f"DROPOUT_RATE must be in [0, 1), got {config.dropout_rate}.")
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


def _is_rule(rule: Any) -> bool:
    return (
        isinstance(rule, tuple | list)
        and len(rule) == 2
        and isinstance(rule[0], str)
        and isinstance(rule[1], optax.GradientTransformation)
    )


def check_task(config: TrainConfig, task: Task, vocabulary: Vocabulary) -> dict[str, int]:
    """Checks the splits, the labels and how to evaluate; returns the feature lengths."""
    task.split("train")
    # A task may have no validation split, but a split that was asked for must be there.
    if config.eval_split in task.splits or config.eval_split != TrainConfig.eval_split:
        task.split(config.eval_split)
        if task.metrics:
            choose_predictions(task, config.predictions)
    lengths = lengths_of(config.feature_lengths)
    check_distinct(task.verbalizers or (), vocabulary, lengths["targets"])
    return lengths


def trainable_rules(config: TrainConfig) -> Sequence[optim.Rule]:
    """The rules asked for, or those of prompt tuning or model tuning."""
    if config.trainable is not None:
        return config.trainable
    rate: dict[str, Any] = {}
    if config.learning_rate is not None:
        rate["learning_rate"] = config.learning_rate
    if config.prompt_length:
        return optim.prompt_rules(**rate)
    return optim.model_rules(**rate)


def is_done(
    config: TrainConfig, step: int, history: Sequence[Any], best: Mapping[str, Any] | None
) -> bool:
    """Whether a run has had its steps, or has waited long enough for a better score."""
    if step >= config.train_steps:
        return True
    if config.patience is None or best is None:
        return False
    return sum(scores["step"] > best["step"] for scores in history) >= config.patience


def run_identity(
    config: TrainConfig,
    model: FrozenModel,
    task: Task,
    trainable: optim.FlatParams,
    frozen: optim.FlatParams,
) -> dict[str, Any]:
    """What makes two runs the same run; a saved state is continued only by its own."""
    settings = {name: getattr(config, name) for name in IDENTITY}
    examples = task.split("train")
    settings |= {
        "shared_prompt": None,
        "model": model.fingerprint,
        "model_dtype": str(model.params["token_embedder"]["embedding"].dtype),
        "task": task.name,
        "train_examples": len(examples) if hasattr(examples, "__len__") else None,
        "trainable": sorted(trainable),
    }
    if config.shared_prompt is not None:
        shared = {**frozen, **trainable}[optim.SHARED_NAME]
        settings["shared_prompt"] = fingerprint({"shared": shared})
    return {macro_name(name): value for name, value in settings.items()}
