"""An embedding model from its files: weights and vocabulary of the network, and dense layers.

Only safetensors are read: a pickled `pytorch_model.bin` can run code.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from prompt_tuning_jax.checkpoints import quantize
from prompt_tuning_jax.checkpoints.huggingface import directory_of, resolve
from prompt_tuning_jax.checkpoints.huggingface.fields import read_json
from prompt_tuning_jax.checkpoints.huggingface.files import CONFIG, stored_arrays
from prompt_tuning_jax.checkpoints.huggingface.formats import encoder_format_in
from prompt_tuning_jax.checkpoints.load import checked_dtype
from prompt_tuning_jax.checkpoints.sentence_transformers.modules import (
    Dense,
    Modules,
    check_cut,
    is_embedding_model,
    length_by_tokenizer,
    read_modules,
    read_text_prompts,
    read_truncation,
)
from prompt_tuning_jax.checkpoints.stored_array import StoredArray, read_arrays
from prompt_tuning_jax.checkpoints.t5x.checkpoint import is_checkpoint
from prompt_tuning_jax.checkpoints.weight_comparison import WeightComparison, compare_weights
from prompt_tuning_jax.data.text_rows import TextPrompts
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.devices.sharding import Shardings
from prompt_tuning_jax.models.embedding import EmbeddingConfig, Step
from prompt_tuning_jax.models.embedding.encoders import encoder_of
from prompt_tuning_jax.params import unflatten
from prompt_tuning_jax.vocabularies import Vocabulary, load_vocabulary

DEFAULT_LENGTH = 512  # tokens of a text, where no file says it


class EmbeddingFiles(NamedTuple):
    """What the files of an embedding model hold.

    `fingerprint` is known only where int8 has replaced the weights; `lower_case` is whether texts
    are written in small letters before they are cut into tokens.
    """

    config: EmbeddingConfig
    params: Mapping[str, Any]
    vocabulary: Vocabulary
    text_prompts: TextPrompts
    lower_case: bool
    fingerprint: str | None


def open_model(
    source: str | Path, dtype: Any = jnp.float32, verbose: bool = False, mesh: Mesh | None = None
) -> EmbeddingFiles:
    """What `load` finds in a directory, or under a hub's name or a bundled model's.

    Raises:
      ValueError: a checkpoint of T5X's; and as `load`.
    """
    if is_checkpoint(source):
        raise ValueError(
            f"{source} is a T5X checkpoint: pass load_embedding_model(load_model({str(source)!r}, "
            "vocabulary=...))."
        )
    quantizer = quantize.Quantizer() if checked_dtype(dtype) == jnp.int8 else None
    places = functools.partial(sharding.param_shardings, mesh) if mesh else None
    report = print if verbose else None
    return load(resolve(directory_of(source)), dtype, report, places, quantizer)


def load(
    directory: Path,
    dtype: Any = jnp.float32,
    report: Callable[[WeightComparison], None] | None = None,
    shardings: Shardings | None = None,
    quantizer: quantize.Quantizer | None = None,
) -> EmbeddingFiles:
    """The model in a directory of sentence-transformers', or a network alone.

    Of a network alone the vectors are the means of its states or, where it is causal, the states of
    last tokens, made as long as 1.

    Args:
      dtype: of the network's weights and activations; dense layers are float32.
      report, shardings: as in `huggingface.load`.
      quantizer: makes the network's weights int8, whatever `dtype` says.

    Raises:
      FileNotFoundError: files are missing, or weights are there only as a pickle.
      ValueError: weights are missing, of the wrong shape or corrupt, or a module or network is of
        no kind that is done here.
    """
    modules = read_modules(directory) if is_embedding_model(directory) else None
    place = modules.network if modules else directory
    dtype = jnp.float32 if quantizer else dtype
    vocabulary = load_vocabulary(place)
    network, weights = _network(place, dtype, vocabulary, report)
    config = _config(place, network, modules, read_truncation(directory))
    dense = _dense(config, modules.dense if modules else ())
    places = shardings(network, weights) if shardings else {}
    params = read_arrays(weights, places, quantizer) | read_arrays(dense, {})
    if quantizer:
        network = dataclasses.replace(network, dtype=quantize.activation_dtype())
        config = dataclasses.replace(config, network=network)
        for name in dense:
            quantizer.remember(name, params[name])
    return EmbeddingFiles(
        config,
        jax.tree.map(jnp.asarray, unflatten(params)),
        vocabulary.within(network.vocab_size),
        read_text_prompts(directory),
        bool(modules and modules.lower_case),
        quantizer and quantizer.fingerprint,
    )


def _network(
    directory: Path,
    dtype: Any,
    vocabulary: Vocabulary,
    report: Callable[[WeightComparison], None] | None,
) -> tuple[Any, dict[str, StoredArray]]:
    """The network's config, and those of its weights that encoding reads."""
    path = directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no model: there is no {CONFIG} in it.")
    form = encoder_format_in(path)
    stored = form.arrays(directory)
    config = form.read_config(path, stored, jnp.dtype(dtype), vocabulary.eos_id)
    is_used = encoder_of(config).is_used
    names = form.weight_names(config)
    needed = {theirs: own for theirs, own in names.items() if is_used(own[0])}
    found = {name: x for name, x in stored.items() if name in needed or name not in names}
    comparison = compare_weights(str(directory), needed, found, CONFIG)
    if report is not None:
        report(comparison)
    comparison.require_complete()
    comparison.refuse_unknown_layers(f"Correct {CONFIG}.", harmless=form.harmless)
    if vocabulary.pieces > config.vocab_size:
        raise ValueError(
            f"{directory}: its vocabulary has {vocabulary.pieces} ids, but the model embeds only "
            f"{config.vocab_size}: they do not belong together."
        )
    weights = {}
    for theirs, (ours, _) in comparison.matched.items():
        weight = stored[theirs].as_floats(dtype)
        weights[ours] = weight.transposed() if form.is_transposed(config, ours) else weight
    return config, weights


def _config(
    directory: Path, network: Any, modules: Modules | None, cut: tuple[Step, ...]
) -> EmbeddingConfig:
    """Of the network's directory; `cut` comes after all other steps."""
    check_cut(directory)
    positions = read_json(directory / CONFIG).get("max_position_embeddings")
    length = length_by_tokenizer(directory, positions, modules and modules.max_seq_length)
    limit = getattr(network, "length_limit", None)
    length = min(x for x in (length or DEFAULT_LENGTH, limit) if x is not None)
    if modules is None:
        pooling = ("lasttoken",) if network.continues_inputs else ("mean",)
        return EmbeddingConfig(network, pooling, (Step("normalize"),), length)
    steps = (*modules.steps, *cut)
    return EmbeddingConfig(network, modules.pooling, steps, length, modules.include_prompt)


def _dense(config: EmbeddingConfig, modules: tuple[Dense, ...]) -> dict[str, StoredArray]:
    """The weights of dense layers, by their names in our tree."""
    found = {}
    for module in modules:
        stored = stored_arrays(module.folder)
        needed = {}
        for ours, shape in config.shapes().items():
            number, leaf = ours.split("/")
            if number == f"step_{module.number}":
                theirs = "linear.weight" if leaf == "kernel" else "linear.bias"
                needed[theirs] = (ours, shape[::-1])
        comparison = compare_weights(str(module.folder), needed, stored, CONFIG)
        comparison.require_complete()
        if comparison.unexpected:
            names = ", ".join(comparison.unexpected)
            raise ValueError(
                f"{module.folder} holds {names}, which its {CONFIG} does not describe."
            )
        for theirs, (ours, _) in comparison.matched.items():
            weight = stored[theirs].as_floats(jnp.float32)
            found[ours] = weight.transposed() if ours.endswith("/kernel") else weight
    return found
