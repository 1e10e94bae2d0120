"""What an evaluation takes."""

from prompt_tuning_jax.bounds import COUNT, ROWS
from prompt_tuning_jax.settings.common import (
    DeviceConfig,
    FeatureLengthsConfig,
    PredictionConfig,
    TextPromptConfig,
)
from prompt_tuning_jax.settings.prompt_config import AdapterConfig, PromptConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings
from prompt_tuning_jax.settings.task_config import TaskConfig


@settings
class ScoringConfig(TextPromptConfig, FeatureLengthsConfig, PredictionConfig):
    """How examples are read and put to a model."""

    limit: int | None = setting(
        default=None,
        help="how many examples of each task to score; None for all.",
        group="evaluation",
        bounds=COUNT,
    )
    batch_size: int = setting(
        default=32,
        help="rows at once; the copies for an ensemble count.",
        group="evaluation",
        bounds=ROWS,
    )


@settings
class EvaluateConfig(ScoringConfig, PromptConfig, AdapterConfig, DeviceConfig, TaskConfig):
    """What `prompt-tuning evaluate` takes."""

    split: str = setting(
        default="validation", help="which split to score.", group="evaluation", first=True
    )
    output: PathLike | None = setting(
        default=None, help="a JSON file for scores, targets and predictions.", group="evaluation"
    )
