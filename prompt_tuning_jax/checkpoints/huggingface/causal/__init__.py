"""Causal language models in Hugging Face's format: a table for each family of them."""

from prompt_tuning_jax.checkpoints.huggingface.causal.config import (
    config_fields,
    config_json,
    parse_config,
    read_config,
)
from prompt_tuning_jax.checkpoints.huggingface.causal.families import FAMILIES
from prompt_tuning_jax.checkpoints.huggingface.causal.names import (
    OUTPUT,
    is_transposed,
    plain_names,
    weight_names,
)

__all__ = [
    "FAMILIES",
    "OUTPUT",
    "config_fields",
    "config_json",
    "is_transposed",
    "parse_config",
    "plain_names",
    "read_config",
    "weight_names",
]
