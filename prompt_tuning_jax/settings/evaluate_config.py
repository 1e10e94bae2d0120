"""What an evaluation takes."""

from prompt_tuning_jax.settings.common import DeviceConfig, PredictionConfig
from prompt_tuning_jax.settings.prompt_config import PromptConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings
from prompt_tuning_jax.settings.task_config import TaskConfig


@settings
class EvaluateConfig(PredictionConfig, PromptConfig, DeviceConfig, TaskConfig):
    """What `prompt-tuning evaluate` takes."""

    split: str = setting("validation", "which split to score.", group="evaluation", first=True)
    limit: int | None = setting(
        None, "how many examples of each task to score; None for all.", group="evaluation", least=1
    )
    batch_size: int = setting(
        32, "rows at once; the copies for an ensemble count.", group="evaluation", least=1
    )
    output: PathLike | None = setting(
        None, "a JSON file for scores, targets and predictions.", group="evaluation"
    )
