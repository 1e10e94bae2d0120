"""T5 models in Hugging Face's format: a directory of config.json, safetensors and a vocabulary."""

from prompt_tuning_jax.checkpoints.huggingface.model import (
    BUNDLED,
    load,
    read_vocabulary,
    resolve,
    save,
)

__all__ = ["BUNDLED", "load", "read_vocabulary", "resolve", "save"]
