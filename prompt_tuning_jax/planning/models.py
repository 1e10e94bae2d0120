"""Models that are planned: published ones by name, or as a `config.json` says."""

import dataclasses
import os
from pathlib import Path

import jax.numpy as jnp

from prompt_tuning_jax.checkpoints.huggingface import t5gemma
from prompt_tuning_jax.checkpoints.huggingface.causal import OUTPUT, PUBLISHED, published_config
from prompt_tuning_jax.checkpoints.huggingface.formats import format_in
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.models.family import NetworkConfig
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.models.t5.config import mt5, t5_1_0, t5_1_1

_T5 = {"t5_1_1": t5_1_1, "t5_1_0": t5_1_0, "mt5": mt5}
# Layers come first where a family can have them elsewhere.
_FORM = {"dtype": jnp.dtype(jnp.bfloat16), "scan_layers": True, "scan_axis": 0}


def model_config(model: str | os.PathLike[str]) -> NetworkConfig:
    """The shape of `xxl`, `llama3.2-1b`, `t5gemma-2b-2b`, or of a Hugging Face model's directory.

    Raises:
      ValueError: it is none of these.
    """
    config = _described(Path(model) / "config.json") or _named(os.fspath(model))
    fields = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{k: v for k, v in _FORM.items() if k in fields})


def _described(file: Path) -> NetworkConfig | None:
    """What a `config.json` says; None where there is none. The weights are not asked."""
    if not file.is_file():
        return None
    read = format_in(file).read_config
    config = read(file, {OUTPUT: None}, jnp.float32, None)
    if isinstance(config, T5Config) and len(config.mlp_activations) == 1:
        # Of T5s only the gated ones have an output layer of their own; others say it in the file.
        return read(file, {}, jnp.float32, None)
    return config


def _named(name: str) -> NetworkConfig:
    if name in PUBLISHED:
        return published_config(name)
    if name in t5gemma.PUBLISHED:
        return t5gemma.published_config(name)
    family, _, size = name.rpartition("_")
    make = _T5.get(family or "t5_1_1")
    try:
        if make is not None:
            return make(size)
    except ValueError:  # no such size: the message below says what there is
        pass
    others = ", ".join((*PUBLISHED, *t5gemma.PUBLISHED))
    raise ValueError(
        f"{spelled('model')} {name}: give small, base, large, xl or xxl, alone or after t5_1_1_, "
        f"t5_1_0_ or mt5_; {others}; or a directory with a Hugging Face config.json."
    )
