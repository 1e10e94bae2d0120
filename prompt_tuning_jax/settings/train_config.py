"""What a training run takes: its settings, and what is checked of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optax

from prompt_tuning_jax.bounds import (
    COUNT,
    GIBIBYTES,
    ROWS,
    SEED,
    TOKENS,
    Bounds,
)
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.layout import VISIBILITIES
from prompt_tuning_jax.models.attention.choice import FORMS
from prompt_tuning_jax.models.t5.config import REMAT_POLICIES
from prompt_tuning_jax.optim import Rule
from prompt_tuning_jax.settings.common import (
    DeviceConfig,
    LayoutConfig,
    MismatchConfig,
    PredictionConfig,
)
from prompt_tuning_jax.settings.parts.method import MethodConfig, check_method
from prompt_tuning_jax.settings.parts.privacy import PrivacyConfig, check_privacy
from prompt_tuning_jax.settings.parts.recipe import RecipeConfig
from prompt_tuning_jax.settings.parts.retrieval import RetrievalConfig, check_retrieval
from prompt_tuning_jax.settings.parts.transfer import TransferConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings, settings_of
from prompt_tuning_jax.settings.task_config import TaskConfig

MODEL_DROPOUT = 0.1
PROMPT_AVERAGE = 0.95


@settings
class TrainConfig(
    RecipeConfig,
    PrivacyConfig,
    MethodConfig,
    TransferConfig,
    RetrievalConfig,
    LayoutConfig,
    MismatchConfig,
    PredictionConfig,
    DeviceConfig,
    TaskConfig,
):
    """What a training run takes."""

    model_dir: PathLike | None = setting(
        default=None,
        help="where the run writes, and continues from.",
        group="training",
        first=True,
        shared=True,
    )
    prompt_visibility: str = setting(
        default="full",
        help="""what the prompt may attend to: full, causal, self, isolated, isolated_causal or
        isolated_self; an isolated prompt is computed once per step.""",
        group="prompt",
        choices=VISIBILITIES,
        identity=True,
        shared=True,
    )
    prompt_init: Any = setting(
        default=None,
        help="""where it starts: an initializer, "uniform", "sampled_vocabulary", "class_labels",
        "text: ...", a prompt file, or "nearest:FOLDER", the prompt below it that is nearest to this
        task ("nearest:FOLDER:3": a mean of the nearest three; see probe_steps). None: class labels
        where the task declares verbalizers, else sampled vocabulary.""",
        group="prompt",
    )
    shared_prompt: PathLike | None = setting(
        default=None,
        help="""a prompt that stands, frozen, before the one that is tuned; the prompt that the run
        writes is both.""",
        group="prompt",
        shared=True,
    )
    train_steps: int = setting(
        default=30_000, help="steps in all.", group="training", first=True, bounds=COUNT
    )
    batch_size: int = setting(
        default=32,
        help="examples per step, over all devices.",
        group="training",
        first=True,
        identity=True,
        shared=True,
        bounds=ROWS,
    )
    seed: int = setting(
        default=0,
        help="of the initial prompt, the data's order, and dropout.",
        group="training",
        identity=True,
        bounds=SEED,
    )
    trainable: Sequence[Rule] | None = setting(
        default=None,
        help="""rules (regex, optax optimizer); what none matches is frozen. None: the prompt, or
        everything where prompt_length is 0.""",
        group="training",
        shared=True,
    )
    pack: bool = setting(
        default=False,
        help="""a batch is the next batch_size examples of the data, several in a row; by default it
        is examples of similar length, one in a row, which is usually faster.""",
        group="training",
        identity=True,
        shared=True,
    )
    checkpoint_period: int = setting(
        default=1000, help="steps between states.", group="training", shared=True, bounds=COUNT
    )
    log_period: int = setting(
        default=50,
        help="steps between lines of the log.",
        group="training",
        shared=True,
        bounds=COUNT,
    )
    quiet: bool = setting(
        default=False,
        help="no progress bar, and no table of the model's weights.",
        group="training",
        shared=True,
    )
    runs: Mapping[str, Mapping[str, Any]] | None = setting(
        default=None,
        help="""several prompts at once, each with settings of its own: slow.learning_rate=0.1
        fast.learning_rate=0.3 fast.seed=1.""",
        group="training",
        shared=True,
    )
    halve_at: Sequence[int] | None = setting(
        default=None,
        help="""steps after which the half of the runs with the worse scores so far ends: successive
        halving. Each is a step of an evaluation.""",
        group="training",
        identity=True,
        shared=True,
        bounds=COUNT,
    )
    eval_period: int = setting(
        default=1000,
        help="steps between evaluations.",
        group="evaluation",
        first=True,
        shared=True,
        bounds=COUNT,
    )
    patience: int | None = setting(
        default=None,
        help="how many evaluations without a better score end the run early; None for none.",
        group="evaluation",
        bounds=COUNT,
    )
    eval_split: str = setting(
        default="validation", help="what is evaluated on.", group="evaluation", identity=True
    )
    eval_limit: int | None = setting(
        default=None,
        help="how many examples of it to evaluate on; None for all.",
        group="evaluation",
        identity=True,
        bounds=COUNT,
    )
    microbatches: int | None = setting(
        default=None,
        help="""how many parts of a batch go through the model one after the other, with one update
        for all: the same step in less memory. None: as few as fit it.""",
        group="devices",
        shared=True,
        bounds=ROWS,
    )
    device_memory: float | None = setting(
        default=None,
        help="""GiB of each device that a step may take: what is left open of remat_policy and
        microbatches is chosen by it. None: what a GPU or a TPU has; no bound on a CPU.""",
        group="devices",
        bounds=GIBIBYTES,
        shared=True,
    )
    scan_layers: bool = setting(
        default=False,
        help="""stack the layers' weights and compile one layer for all: a deep model compiles as
        fast as a shallow one, and its steps take longer.""",
        group="devices",
        identity=True,
        shared=True,
    )
    remat_policy: str | None = setting(
        default=None,
        help="""what the backward pass computes again instead of keeping it in memory: none, minimal
        (all but products with weights) or full. None: as little as fits the memory.""",
        group="devices",
        choices=REMAT_POLICIES,
        shared=True,
    )
    attention: str | None = setting(
        default=None,
        help="""dense (all scores in memory), chunked (those of a few queries at a time) or fused
        (none: by a kernel of the TPU's or the GPU's). None: as the model says, which is auto: fused
        where there is a kernel for the shapes, else chunked in rows above 512 whose scores take
        more than 32 MB a layer, else dense.""",
        group="devices",
        choices=FORMS,
        shared=True,
    )
    attention_chunk: int | None = setting(
        default=None,
        help="""how many queries' scores are in memory at a time where attention is chunked. None:
        128.""",
        group="devices",
        bounds=Bounds(1, TOKENS.most),
        shared=True,
    )

    @property
    def dropout(self) -> float:
        """`dropout_rate`, or what it is by default."""
        if self.dropout_rate is None:
            return 0.0 if self.input_rows or self.retrieves else MODEL_DROPOUT
        return self.dropout_rate

    @property
    def averaging(self) -> float:
        """`average_decay`, or what it is by default."""
        if self.average_decay is None:
            trains_prompt = self.input_rows and self.trainable is None and self.share is None
            return PROMPT_AVERAGE if trains_prompt else 0.0
        return self.average_decay


def check_settings(config: TrainConfig) -> None:
    """Refuses what is wrong before anything is loaded, and makes the run's directory."""
    directory = directory_of_run(config)
    for rule in config.trainable or ():
        if not _is_rule(rule):
            raise ValueError(
                f"{spelled('trainable')}: a rule is (regular expression, optimizer), such as "
                f"('encoder/prompt/prompt', @adam()) with its parentheses, not {rule!r}."
            )
    check_method(config)
    if config.shared_prompt is not None and not config.input_rows:
        raise ValueError(
            f"{spelled('shared_prompt')} stands before a prompt: set {spelled('prompt_length')} "
            "above 0."
        )
    check_optimizer(config)
    for step in config.halve_at or ():
        if step % config.eval_period:
            raise ValueError(
                f"{spelled('halve_at')} {step} is no step of an evaluation: "
                f"{spelled('eval_period')} is {config.eval_period}."
            )
    check_privacy(config)
    check_retrieval(config)
    parts = sharding.batch_parts(sharding.make_mesh(config.mesh))
    if config.batch_size % parts:
        raise ValueError(
            f"{spelled('batch_size')} {config.batch_size} does not divide over the {parts} devices "
            f"that {spelled('mesh')} {config.mesh!r} gives to data and fsdp."
        )
    if config.batch_size % (parts * (config.microbatches or 1)):
        raise ValueError(
            f"{spelled('batch_size')} {config.batch_size} does not divide into "
            f"{spelled('microbatches')} {config.microbatches} parts"
            + (f", each over {parts} devices." if parts > 1 else ".")
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{spelled('model_dir')} {directory} cannot be written: {error}."
        ) from error


def directory_of_run(config: TrainConfig) -> Path:
    """Its `model_dir`, or a ValueError where that is none."""
    if config.model_dir is None:
        raise ValueError(f"Set {spelled('model_dir')}, the directory that this run writes to.")
    if "://" in str(config.model_dir):
        raise ValueError(
            f"{spelled('model_dir')} {config.model_dir} is no directory: mount the bucket, and "
            "name it by its path. (Under T5X, MODEL_DIR may be gs://...)"
        )
    return Path(config.model_dir)


def check_optimizer(config: TrainConfig) -> None:
    """Refuses what would change nothing."""
    declared = settings_of(TrainConfig)
    for name in ("learning_rate", "optimizer", "schedule", "warmup_steps"):
        if getattr(config, name) != declared[name].default and config.trainable is not None:
            raise ValueError(
                f"{spelled(name)} is the default optimizer's: with {spelled('trainable')}, give it "
                "to the optimizers that are named there."
            )
    size, form = config.parameterization_size, config.prompt_parameterization
    if form == "direct" and size is not None:
        raise ValueError(
            f"{spelled('parameterization_size')} is no part of a direct prompt: leave it out, or "
            f"set {spelled('prompt_parameterization')}."
        )
    if form != "direct" and not config.input_rows:
        raise ValueError(
            f"{spelled('prompt_parameterization')} is a prompt's: set {spelled('prompt_length')} "
            "above 0."
        )


def _is_rule(rule: Any) -> bool:
    return (
        isinstance(rule, tuple | list)
        and len(rule) == 2
        and isinstance(rule[0], str)
        and isinstance(rule[1], optax.GradientTransformation)
    )
