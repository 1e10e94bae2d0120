"""What inference takes."""

from prompt_tuning_jax.settings.common import (
    DeviceConfig,
    FormConfig,
    ModelConfig,
    PredictionConfig,
)
from prompt_tuning_jax.settings.prompt_config import PromptConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings


@settings
class InferConfig(PredictionConfig, PromptConfig, DeviceConfig, FormConfig, ModelConfig):
    """What `prompt-tuning infer` takes."""

    input_file: PathLike | None = setting(
        None, "what to answer; None for standard input.", group="data", first=True
    )
    output: PathLike | None = setting(
        None, "where the answers go; None for standard output.", group="data", first=True
    )
    batch_size: int = setting(
        32, "rows at once; the copies for an ensemble count.", group="evaluation", least=1
    )
    max_input_length: int = setting(
        512, "the longest input, in tokens.", group="evaluation", least=1
    )
    max_length: int = setting(
        64, "the most tokens to generate, EOS included.", group="evaluation", least=1
    )
    beams: int = setting(1, "above 1: beam search.", group="evaluation", least=1)
    length_penalty: float = setting(
        0.0, "a beam's score is divided by its length to this power.", group="evaluation"
    )
    temperature: float = setting(0.0, "above 0: sampling.", group="evaluation")
    top_k: int = setting(0, "sample among the k likeliest tokens; 0 for all.", group="evaluation")
    top_p: float = setting(
        1.0, "sample among the likeliest tokens of this probability together.", group="evaluation"
    )
    seed: int = setting(0, "of what is sampled.", group="evaluation", least=0)
