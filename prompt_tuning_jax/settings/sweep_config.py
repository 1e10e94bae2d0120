"""What a sweep over settings takes."""

from collections.abc import Mapping
from typing import Any

from prompt_tuning_jax.settings.setting import setting, settings
from prompt_tuning_jax.settings.train_config import TrainConfig


@settings
class SweepConfig(TrainConfig):
    """A training run, and what is tried in it."""

    grid: Mapping[str, Any] | None = setting(
        default=None,
        help="""what is tried, every combination of it: learning_rate=0.1,0.3 seed=0,1,2. With
        several seeds, settings are ranked by their mean.""",
        group="training",
        first=True,
    )
