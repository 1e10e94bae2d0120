"""A frozen model from whichever files hold it, Hugging Face's or T5X's."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from prompt_tuning_jax.checkpoints import huggingface, quantize, t5x
from prompt_tuning_jax.checkpoints.t5x.checkpoint import is_checkpoint
from prompt_tuning_jax.decoding.defaults import NO_DEFAULTS, GenerationDefaults
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.models.family import NetworkConfig
from prompt_tuning_jax.vocabularies import Vocabulary, load_vocabulary

DTYPES = ("float32", "bfloat16", "int8")


class Loaded(NamedTuple):
    """What a model's files hold; the fingerprint only where int8 has replaced the weights.

    `generation` is what they say of how text is generated.
    """

    config: NetworkConfig
    params: Mapping[str, Any]
    vocabulary: Vocabulary | None
    fingerprint: str | None
    generation: GenerationDefaults


def load(
    source: str | Path,
    dtype: Any,
    verbose: bool,
    vocabulary: str | Path | None,
    mesh: Mesh | None,
) -> Loaded:
    """The model at `source`; see `model.load_model`, whose arguments and errors these are."""
    quantizer = quantize.Quantizer() if checked_dtype(dtype) == jnp.int8 else None
    dtype = jnp.float32 if quantizer else dtype
    report, found = print if verbose else None, None
    generation = NO_DEFAULTS
    places = functools.partial(sharding.param_shardings, mesh) if mesh else None
    given = None if vocabulary is None else load_vocabulary(vocabulary)
    if is_checkpoint(source):
        how = {"convert": quantizer, "eos_id": given and given.eos_id}
        config, params = t5x.load(source, dtype, places, report=report, **how)
    else:
        source = huggingface.resolve(source)
        config, params, found = huggingface.load(source, dtype, report, places, quantizer)
        generation = huggingface.read_generation(source, config.vocab_size, config.continues_inputs)
    if given is not None:
        found = huggingface.fit_vocabulary(given, vocabulary, config)
    params = jax.tree.map(jnp.asarray, params)
    if quantizer is None:
        return Loaded(config, params, found, None, generation)
    config = dataclasses.replace(config, dtype=quantize.activation_dtype())
    return Loaded(config, params, found, quantizer.fingerprint, generation)


def checked_dtype(name: Any) -> np.dtype:
    """The dtype of a model's weights that a setting names."""
    try:
        dtype = jnp.dtype(name)
    except TypeError:
        dtype = None
    if dtype not in map(jnp.dtype, DTYPES):
        raise ValueError(f"{spelled('model_dtype')} must be {' or '.join(DTYPES)}, not {name!r}.")
    return dtype
