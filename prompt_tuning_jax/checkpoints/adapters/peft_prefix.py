"""PEFT's prefix tuning: one tensor `prompt_embeddings` [P, entries * J] beside our leaves.

A causal model's layer i has the entries 2i and 2i + 1 for its keys and values. In an encoder-
decoder they go to the decoder's self-attention; PEFT doubles the 2L entries for two submodules,
splits them in fours and uses each first pair: layer i has the entries 4i and 4i + 1, modulo 2L. So
with an even number of layers half of the entries are never used, and layers i and i + L / 2 share a
pair. What was trained with a pair for each layer cannot be written so, unless L is odd.

P prefix length   L layers   J heads of keys * head dim
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.models.adapters import PREFIX_KEY, PREFIX_VALUE
from prompt_tuning_jax.models.embedding import EmbeddingConfig
from prompt_tuning_jax.models.family import NetworkConfig
from prompt_tuning_jax.models.t5 import T5Config

_TENSOR = "prompt_embeddings"
Tensors = Mapping[str, np.ndarray]
Leaves = dict[str, np.ndarray]


def folders_of(config: NetworkConfig) -> list[str]:
    """The attentions that PEFT's prefix goes to, a folder for each layer."""
    if config.continues_inputs:
        return [f"decoder/layers_{i}/attention/" for i in range(len(config.layers))]
    if isinstance(config, T5Config):
        return [f"decoder/layers_{i}/self_attention/" for i in range(config.num_decoder_layers)]
    raise ValueError("PEFT has no prefix for T5Gemma, so none is read as PEFT's.")


def entries_of(layers: int, entries: int, continues_inputs: bool) -> list[int]:
    """Of each layer the entry that is its keys; the next one is its values."""
    return [2 * i if continues_inputs else 4 * i % entries for i in range(layers)]


def read_prefix(
    where: object,
    config: NetworkConfig | EmbeddingConfig,
    facts: Mapping[str, Any],
    tensors: Tensors,
) -> Leaves:
    """The leaves of PEFT's prefix.

    Raises:
      ValueError: it is of another shape than this model's or than its settings say, or this
        model embeds texts.
    """
    if isinstance(config, EmbeddingConfig):
        raise ValueError(
            f"{where} is a prefix of PEFT's for a model that writes text, and the model given "
            "embeds texts: none is read for it."
        )
    heads = config.num_kv_heads if config.continues_inputs else config.num_heads
    width, folders = heads * config.head_dim, folders_of(config)
    count, values = facts.get("num_layers"), tensors.get(_TENSOR)
    if set(tensors) != {_TENSOR} or values.ndim != 2 or not isinstance(count, int):
        raise ValueError(f"{where} holds {sorted(tensors)}, not a tensor {_TENSOR!r} alone.")
    if values.shape[1] != 2 * count * width or (config.continues_inputs and count < len(folders)):
        raise ValueError(
            f"{where}: {_TENSOR} is {list(values.shape)}, keys and values for {count} layers, but "
            f"those of the model given are {width} wide in {len(folders)} layers: load the model "
            "that it was made for."
        )
    if (told := facts.get("num_virtual_tokens", len(values))) != len(values):
        raise ValueError(
            f"{where}: {_TENSOR} has {len(values)} rows, and by its settings {told!r}. {peft.APART}"
        )
    entries = np.asarray(values, np.float32).reshape(len(values), 2 * count, width)
    keys = entries_of(len(folders), 2 * count, config.continues_inputs)
    leaves: Leaves = {}
    for folder, entry in zip(folders, keys, strict=True):
        leaves[folder + PREFIX_KEY] = entries[:, entry]
        leaves[folder + PREFIX_VALUE] = entries[:, entry + 1]
    return leaves


def write_prefix(
    config: NetworkConfig | EmbeddingConfig, leaves: Tensors
) -> tuple[dict[str, Any], Leaves] | None:
    """PEFT's settings and tensor of a prefix; None where PEFT cannot hold it."""
    if isinstance(config, EmbeddingConfig):
        return None
    if not config.continues_inputs and not isinstance(config, T5Config):
        return None
    folders = folders_of(config)
    names = {folder + name for folder in folders for name in (PREFIX_KEY, PREFIX_VALUE)}
    count = len(folders)
    if set(leaves) != names or not (config.continues_inputs or _is_loaded(config)):
        return None
    P, width = leaves[folders[0] + PREFIX_KEY].shape
    entries = np.zeros((P, 2 * count, width), np.float32)
    for folder, entry in zip(
        folders, entries_of(count, 2 * count, config.continues_inputs), strict=True
    ):
        entries[:, entry] = leaves[folder + PREFIX_KEY]
        entries[:, entry + 1] = leaves[folder + PREFIX_VALUE]
    heads = width // config.head_dim
    return {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": P,
        "num_layers": count,
        "token_dim": width,
        "num_attention_heads": heads,
        "num_transformer_submodules": 1 if config.continues_inputs else 2,
        "encoder_hidden_size": width,
        "prefix_projection": False,
    }, {_TENSOR: entries.reshape(P, -1)}


def _is_loaded(config: T5Config) -> bool:
    """Whether PEFT gives each layer of this T5 a pair of its own."""
    layers = config.num_decoder_layers
    return layers % 2 == 1 and layers == config.num_encoder_layers
