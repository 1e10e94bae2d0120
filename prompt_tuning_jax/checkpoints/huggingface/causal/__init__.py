"""Causal language models in Hugging Face's format: a table for each family of them."""

from prompt_tuning_jax.checkpoints.huggingface.causal.config import (
    config_fields,
    config_json,
    parse_config,
    parse_fields,
    read_config,
)
from prompt_tuning_jax.checkpoints.huggingface.causal.families import FAMILIES
from prompt_tuning_jax.checkpoints.huggingface.causal.names import (
    OUTPUT,
    is_transposed,
    plain_names,
    weight_names,
)
from prompt_tuning_jax.checkpoints.huggingface.causal.positions import BIDIRECTIONAL
from prompt_tuning_jax.checkpoints.huggingface.causal.published import (
    PUBLISHED,
    published_config,
    published_fields,
)

__all__ = [
    "BIDIRECTIONAL",
    "FAMILIES",
    "OUTPUT",
    "PUBLISHED",
    "config_fields",
    "config_json",
    "is_transposed",
    "parse_config",
    "parse_fields",
    "plain_names",
    "published_config",
    "published_fields",
    "read_config",
    "weight_names",
]
