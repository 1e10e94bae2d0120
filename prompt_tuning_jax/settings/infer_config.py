"""What inference takes."""

from prompt_tuning_jax.bounds import (
    BEAMS,
    FEWEST,
    LENGTH_PENALTY,
    REPETITION_PENALTY,
    ROWS,
    SEED,
    TEMPERATURE,
    TOKENS,
    TOP_K,
    TOP_P,
)
from prompt_tuning_jax.settings.common import (
    DeviceConfig,
    FileFormConfig,
    FormConfig,
    ModelConfig,
    PredictionConfig,
)
from prompt_tuning_jax.settings.prompt_config import AdapterConfig, PromptConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings


@settings
class InferConfig(
    PredictionConfig,
    PromptConfig,
    AdapterConfig,
    DeviceConfig,
    FormConfig,
    FileFormConfig,
    ModelConfig,
):
    """What `prompt-tuning infer` takes."""

    input_file: PathLike | None = setting(
        default=None,
        help="""what to answer: a file, a folder, or a pattern such as 'texts/*.jsonl'; None for
        standard input.""",
        group="data",
        first=True,
    )
    output: PathLike | None = setting(
        default=None,
        help="""where the answers go: a file, or the folder for those to several files; None for
        standard output.""",
        group="data",
        first=True,
    )
    batch_size: int = setting(
        default=32,
        help="rows at once; the copies for an ensemble count.",
        group="evaluation",
        bounds=ROWS,
    )
    template: str = setting(
        default="prompt",
        help="""where records are made inputs by no input_template: "prompt", by the one that the
        prompt was trained with, or "none", for lines as they are.""",
        group="data",
        choices=("prompt", "none"),
    )
    max_input_length: int | None = setting(
        default=None,
        help="the longest input, in tokens; None: as the prompt was trained, else 512.",
        group="evaluation",
        bounds=TOKENS,
    )
    max_length: int | None = setting(
        default=None,
        help="""the most tokens to generate, EOS included; None: as the prompt was trained, else as
        the model's generation_config.json says, else 64.""",
        group="evaluation",
        bounds=TOKENS,
    )
    min_length: int | None = setting(
        default=None,
        help="so many tokens come before EOS; None: as the model's file says, else 0.",
        group="evaluation",
        bounds=FEWEST,
    )
    beams: int | None = setting(
        default=None,
        help="above 1: beam search; None: as the model's generation_config.json says, else 1.",
        group="evaluation",
        bounds=BEAMS,
    )
    length_penalty: float | None = setting(
        default=None,
        help="""a beam's score is divided by its length to this power; None: as the model's file
        says, else 0.""",
        group="evaluation",
        bounds=LENGTH_PENALTY,
    )
    temperature: float | None = setting(
        default=None,
        help="above 0: sampling; None: as the model's file says, else 0.",
        group="evaluation",
        bounds=TEMPERATURE,
    )
    top_k: int | None = setting(
        default=None,
        help="""sample among the k likeliest tokens, 0 for all; None: as the model's file says,
        else 0.""",
        group="evaluation",
        bounds=TOP_K,
    )
    top_p: float | None = setting(
        default=None,
        help="""sample among the likeliest tokens of this probability together; None: as the model's
        file says, else 1.""",
        group="evaluation",
        bounds=TOP_P,
    )
    no_repeat_ngram: int | None = setting(
        default=None,
        help="""no n-gram of this size comes twice, 0 for no limit; None: as the model's file says,
        else 0.""",
        group="evaluation",
        bounds=FEWEST,
    )
    repetition_penalty: float | None = setting(
        default=None,
        help="""above 1, what came before is less likely to come again; None: as the model's file
        says, else 1.""",
        group="evaluation",
        bounds=REPETITION_PENALTY,
    )
    seed: int = setting(default=0, help="of what is sampled.", group="evaluation", bounds=SEED)
