"""A model in another format, between T5X and Hugging Face, or one leaf of it as an array."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from prompt_tuning_jax.checkpoints import huggingface, t5x
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.checkpoints.t5x.checkpoint import is_checkpoint, open_checkpoint
from prompt_tuning_jax.checkpoints.weight_comparison import WeightComparison
from prompt_tuning_jax.decoding.defaults import NO_DEFAULTS
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.models.t5.scan import stack_layers
from prompt_tuning_jax.vocabularies import load_vocabulary

Report = Callable[[WeightComparison], None]


def to_huggingface(
    source: str,
    destination: str,
    vocabulary: str | None = None,
    dtype: Any = None,
    activations: tuple[str, ...] | None = None,
    report: Report | None = None,
) -> Path:
    """Writes a model as a Hugging Face directory, with one file's weights at a time in memory.

    Args:
      source: a T5X checkpoint, or a model in Hugging Face's format.
      vocabulary: the model's tokenizer, to be copied in; None: the source's, if it has one.
      dtype: of the weights written; None keeps a T5X checkpoint's, and is float32 for others.
      activations: of the MLP, where they are not those that its shapes suggest.
      report: called with the table of weights before any is read; `print` shows it.

    Raises:
      FileNotFoundError, ValueError: as `t5x.load`, `huggingface.load` and `huggingface.save`.
    """
    given = None if vocabulary is None else load_vocabulary(vocabulary)
    if is_checkpoint(source):
        eos_id = given and given.eos_id
        config, weights = t5x.load_lazily(source, dtype, report=report, eos_id=eos_id)
        words, generation = None, NO_DEFAULTS
    else:
        source = huggingface.resolve(source)
        config, weights, words = huggingface.load_lazily(source, dtype or jnp.float32, report)
        generation = huggingface.read_generation(source, config.vocab_size)
    config = _with_activations(config, activations)
    if given is not None:
        words = huggingface.fit_vocabulary(given, vocabulary, config)
    params = unflatten_dict(weights, sep="/")
    huggingface.save(destination, config, params, words, generation=generation)
    return Path(destination)


def to_t5x(
    source: str,
    destination: str,
    step: int = 0,
    form: str = "orbax",
    dtype: Any = None,
    report: Report | None = None,
) -> Path:
    """Writes a model as the T5X checkpoint `destination/checkpoint_{step}`.

    Args:
      source: a T5X checkpoint, or a model in Hugging Face's format.
      form: as `t5x.save`.
      dtype, report: as `to_huggingface`.

    Raises:
      FileNotFoundError, ValueError: as `huggingface.load` and `t5x.save`; or T5X has no such
        model.
    """
    if is_checkpoint(source):
        config, weights = t5x.load_lazily(source, dtype, report=report)
        return t5x.save(destination, weights, step, form, config)
    config, weights, _ = huggingface.load_lazily(source, dtype or jnp.float32, report)
    if not isinstance(config, T5Config):
        raise ValueError(f"{source} is no T5: T5X has no such model.")
    if config.scale_decoder_outputs is not None:
        raise ValueError(
            f"{source} has {'tied' if config.logits_via_embedding else 'separate'} embeddings and "
            f"scale_decoder_outputs {config.outputs_scaled}: T5X has no such T5, its outputs would "
            "change."
        )
    if config.pad_id or config.start_id:
        raise ValueError(
            f"{source} has padding at the id {config.pad_id} and its decoder starts from "
            f"{config.start_id}: T5X has 0 for both, its outputs would change."
        )
    if config.layer_relpos_bias:  # only T5X's scalable T5 has a bias in every layer
        weights = stack_layers({n: w.read() for n, w in weights.items()})
    return t5x.save(destination, weights, step, form, config)


def leaf_to_npy(path: str, name: str, destination: str) -> Path:
    """Writes the leaf `name` of a T5X checkpoint as a `.npy` array.

    Raises:
      FileNotFoundError, ValueError: as `open_checkpoint`; there is no such leaf, or the
        destination is not a `.npy` file.
    """
    if not destination.endswith(".npy"):
        raise ValueError(f"{destination}: a leaf is written as a .npy file; name it so.")
    leaf = open_checkpoint(path).leaf(name)
    with new_file(destination) as partial, open(partial, "wb") as file:
        values = leaf.read()
        if not isinstance(values.dtype.type(0), (np.floating, np.integer)):
            values = values.astype(np.float32)  # .npy has no bfloat16
        np.save(file, values, allow_pickle=False)
    return Path(destination)


def _with_activations(config: T5Config, activations: tuple[str, ...] | None) -> T5Config:
    if activations is None:
        return config
    if not isinstance(config, T5Config):
        raise ValueError("Only a T5X checkpoint leaves its activations open: give none.")
    asked = dataclasses.replace(config, mlp_activations=activations)
    if len(asked.mlp_activations) != len(config.mlp_activations):
        raise ValueError(
            f"This model's MLP has {len(config.mlp_activations)} activation(s), not "
            f"{','.join(activations)}."
        )
    return asked
