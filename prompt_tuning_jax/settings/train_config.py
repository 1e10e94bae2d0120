"""What a training run takes: its settings, what is checked of them, and what tells runs apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optax

from prompt_tuning_jax import optim
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.data.encoding import check_distinct
from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.data.vocabulary import Vocabulary
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.layout import VISIBILITIES
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.t5.config import REMAT_POLICIES
from prompt_tuning_jax.optim import Rule
from prompt_tuning_jax.settings.common import (
    DeviceConfig,
    LayoutConfig,
    LengthConfig,
    MismatchConfig,
    PredictionConfig,
)
from prompt_tuning_jax.settings.setting import (
    PathLike,
    macro_name,
    names_where,
    setting,
    settings,
    settings_of,
)
from prompt_tuning_jax.settings.task_config import TaskConfig, choose_predictions, lengths_of


@settings
class TrainConfig(
    LengthConfig, LayoutConfig, MismatchConfig, PredictionConfig, DeviceConfig, TaskConfig
):
    """What a training run takes. The defaults are the paper's recipe."""

    model_dir: PathLike | None = setting(
        None,
        "where the run writes, and continues from.",
        group="training",
        first=True,
        shared=True,
    )
    prompt_visibility: str = setting(
        "full",
        """what the prompt may attend to: full, causal, self, isolated, isolated_causal or
        isolated_self; an isolated prompt is computed once per step.""",
        group="prompt",
        choices=VISIBILITIES,
        identity=True,
        shared=True,
    )
    prompt_init: Any = setting(
        None,
        """where it starts: an initializer, "uniform", "sampled_vocabulary", "class_labels",
        "text: ...", or a prompt file. None: class labels where the task declares verbalizers, else
        sampled vocabulary.""",
        group="prompt",
    )
    shared_prompt: PathLike | None = setting(
        None,
        """a prompt that stands, frozen, before the one that is tuned; the prompt that the run
        writes is both.""",
        group="prompt",
        shared=True,
    )
    train_steps: int = setting(30_000, "steps in all.", group="training", first=True, least=1)
    batch_size: int = setting(
        32,
        "examples per step, over all devices.",
        group="training",
        first=True,
        least=1,
        identity=True,
        shared=True,
    )
    learning_rate: float | None = setting(
        None,
        "of the default optimizer. None: 0.3 for a prompt, 0.001 for a model.",
        group="training",
        first=True,
        identity=True,
    )
    seed: int = setting(
        0,
        "of the initial prompt, the data's order, and dropout.",
        group="training",
        least=0,
        identity=True,
    )
    trainable: Sequence[Rule] | None = setting(
        None,
        """rules (regex, optax optimizer); what none matches is frozen. None: the prompt, or
        everything where prompt_length is 0.""",
        group="training",
        shared=True,
    )
    dropout_rate: float = setting(
        0.1, "of the frozen network, as in T5X.", group="training", identity=True, shared=True
    )
    z_loss: float = setting(
        1e-4,
        "keeps the softmax normaliser near 1, as in T5X.",
        group="training",
        identity=True,
        shared=True,
    )
    loss_normalization: str = setting(
        "sum",
        "the sum over target tokens, as in T5X, or their mean.",
        group="training",
        choices=("sum", "mean"),
        identity=True,
        shared=True,
    )
    pack: bool = setting(
        False,
        """a batch is the next batch_size examples of the data, several in a row; by default it is
        examples of similar length, one in a row, which is usually faster.""",
        group="training",
        identity=True,
        shared=True,
    )
    checkpoint_period: int = setting(
        1000, "steps between states.", group="training", least=1, shared=True
    )
    log_period: int = setting(
        50, "steps between lines of the log.", group="training", least=1, shared=True
    )
    quiet: bool = setting(
        False,
        "no progress bar, and no table of the model's weights.",
        group="training",
        shared=True,
    )
    runs: Mapping[str, Mapping[str, Any]] | None = setting(
        None,
        """several prompts at once, each with settings of its own: slow.learning_rate=0.1
        fast.learning_rate=0.3 fast.seed=1.""",
        group="training",
        shared=True,
    )
    eval_period: int = setting(
        1000, "steps between evaluations.", group="evaluation", first=True, least=1, shared=True
    )
    patience: int | None = setting(
        None,
        "how many evaluations without a better score end the run early; None for none.",
        group="evaluation",
        least=1,
    )
    eval_split: str = setting(
        "validation", "what is evaluated on.", group="evaluation", identity=True
    )
    eval_limit: int | None = setting(
        None,
        "how many examples of it to evaluate on; None for all.",
        group="evaluation",
        least=1,
        identity=True,
    )
    microbatches: int = setting(
        1,
        """how many parts of a batch go through the model one after the other, with one update for
        all: the same step in less memory.""",
        group="devices",
        least=1,
        shared=True,
    )
    scan_layers: bool = setting(
        False,
        """stack the layers' weights and compile one layer for all: a deep model compiles as fast as
        a shallow one, and with the mesh's fsdp only one layer is whole at a time.""",
        group="devices",
        identity=True,
        shared=True,
    )
    remat_policy: str | None = setting(
        None,
        """what the backward pass computes again instead of keeping it in memory: none, minimal (all
        but products with weights) or full. None: as the model says, which is none.""",
        group="devices",
        choices=REMAT_POLICIES,
        shared=True,
    )
    attention_chunk: int | None = setting(
        None,
        """how many queries' attention scores are in memory at a time; 0 for all. None: as the model
        says: all in rows of at most 512, or in batches so small that a layer's scores take 32 MB or
        less, else 128.""",
        group="devices",
        least=0,
        shared=True,
    )


def check_settings(config: TrainConfig) -> Path:
    """Everything that can be checked without loading anything; returns the run's directory."""
    if config.model_dir is None:
        raise ValueError(f"Set {spelled('model_dir')}, the directory that this run writes to.")
    if "://" in str(config.model_dir):
        raise ValueError(
            f"{spelled('model_dir')} {config.model_dir} is no directory: mount the bucket, and "
            "name it by its path. (Under T5X, MODEL_DIR may be gs://...)"
        )
    for rule in config.trainable or ():
        if not _is_rule(rule):
            raise ValueError(
                f"{spelled('trainable')}: a rule is (regular expression, optimizer), such as "
                f"('encoder/prompt/prompt', @adam()) with its parentheses, not {rule!r}."
            )
    if config.shared_prompt is not None and not config.prompt_length:
        raise ValueError(
            f"{spelled('shared_prompt')} stands before a prompt: set {spelled('prompt_length')} "
            "above 0."
        )
    if config.learning_rate is not None and config.trainable is not None:
        raise ValueError(
            f"{spelled('learning_rate')} is the default optimizer's: with {spelled('trainable')}, "
            "give it to the optimizers that are named there."
        )
    if not 0 <= config.dropout_rate < 1:
        raise ValueError(f"{spelled('dropout_rate')} must be in [0, 1), got {config.dropout_rate}.")
    parts = sharding.batch_parts(sharding.make_mesh(config.mesh))
    if config.batch_size % parts:
        raise ValueError(
            f"{spelled('batch_size')} {config.batch_size} does not divide over the {parts} devices "
            f"that {spelled('mesh')} {config.mesh!r} gives to data and fsdp."
        )
    if config.batch_size % (parts * config.microbatches):
        raise ValueError(
            f"{spelled('batch_size')} {config.batch_size} does not divide into "
            f"{spelled('microbatches')} {config.microbatches} parts"
            + (f", each over {parts} devices." if parts > 1 else ".")
        )
    path = Path(config.model_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{spelled('model_dir')} {path} cannot be written: {error}.") from error
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
    if (
        config.eval_split in task.splits
        or config.eval_split != settings_of(TrainConfig)["eval_split"].default
    ):
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
    rate = {} if config.learning_rate is None else {"learning_rate": config.learning_rate}
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
    settings = {name: getattr(config, name) for name in names_where(TrainConfig, "identity")}
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
