"""Models in Hugging Face's format: a directory of config.json, safetensors and a vocabulary."""

from prompt_tuning_jax.checkpoints.huggingface.bundled import (
    BUNDLED,
    BUNDLED_CAUSAL,
    BUNDLED_MODELS,
    directory_of,
)
from prompt_tuning_jax.checkpoints.huggingface.generation import read_generation
from prompt_tuning_jax.checkpoints.huggingface.hub import resolve
from prompt_tuning_jax.checkpoints.huggingface.model import (
    fit_vocabulary,
    load,
    load_lazily,
    read_vocabulary,
    save,
    vocabulary_of,
)

__all__ = [
    "BUNDLED",
    "BUNDLED_CAUSAL",
    "BUNDLED_MODELS",
    "directory_of",
    "fit_vocabulary",
    "load",
    "load_lazily",
    "read_generation",
    "read_vocabulary",
    "resolve",
    "save",
    "vocabulary_of",
]
