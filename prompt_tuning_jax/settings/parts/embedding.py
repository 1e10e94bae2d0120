"""Which embedding model, and how texts become vectors."""

from collections.abc import Sequence
from typing import Any

from prompt_tuning_jax.bounds import ROWS, TOKENS
from prompt_tuning_jax.models.embedding.config import POOLINGS
from prompt_tuning_jax.models.embedding.stored import DTYPES
from prompt_tuning_jax.settings.common import DeviceConfig, MismatchConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings


@settings
class EmbeddingModelConfig(DeviceConfig):
    """Which model makes vectors."""

    model: Any = setting(
        help="""the embedding model: a directory that sentence-transformers saved, that of a T5, a
        BERT or a causal model, "bundled", "bundled_causal", or a hub name.""",
        group="model",
        first=True,
        shared=True,
    )
    pooling: str | Sequence[str] | None = setting(
        default=None,
        help=f"""how the states of tokens become one vector: {", ".join(POOLINGS)}, or several.
        None: as the model's files say, else mean, of a causal model lasttoken.""",
        group="model",
        shared=True,
    )
    normalize: bool | None = setting(
        default=None,
        help="whether vectors have length 1. None: as the model's files say, else they have.",
        group="model",
        shared=True,
    )


@settings
class TextVectorConfig(EmbeddingModelConfig, MismatchConfig):
    """How texts become vectors."""

    prompt: PathLike | None = setting(
        default=None,
        help="a prompt's file, directory or, of a pre-built one, name; None for the model alone.",
        group="prompt",
        first=True,
    )
    name: str | None = setting(
        default=None,
        help="""of the model's own text prompt that stands before all texts, such as query. None:
        its default one, if it has one.""",
        group="prompt",
        first=True,
    )
    text_prompt: str | None = setting(
        default=None,
        help="""a text to stand before all texts instead of one of the model's own; "" for none.""",
        group="prompt",
    )
    pool_prompt: bool | None = setting(
        default=None,
        help="""whether the prompt's positions count in the pooling. None: as its file says, else
        they do not.""",
        group="prompt",
    )
    max_length: int | None = setting(
        default=None,
        help="""tokens of a text, special ones included; what is more is cut off. None: as the
        model's files say, else 512.""",
        group="evaluation",
        bounds=TOKENS,
    )
    batch_size: int = setting(default=32, help="texts at once.", group="evaluation", bounds=ROWS)
    dtype: str = setting(
        default="float32",
        help="""of the vectors: float32, float16 or int8, in which each is multiplied by 127 over
        its largest number.""",
        group="evaluation",
        choices=DTYPES,
        first=True,
    )
