"""Frozen models in Hugging Face's format: `config.json`, safetensors and a vocabulary.

    config, params, vocabulary = huggingface.load("flan-t5-small", report=print)

Only safetensors are read: a pickled `pytorch_model.bin` can run code.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from prompt_tuning_jax.checkpoints.atomic import scratch_directory
from prompt_tuning_jax.checkpoints.huggingface.config import GENERATION
from prompt_tuning_jax.checkpoints.huggingface.files import (
    CONFIG,
    install,
    unused_stem,
    write_weights,
)
from prompt_tuning_jax.checkpoints.huggingface.formats import format_in, format_of
from prompt_tuning_jax.checkpoints.huggingface.generation import write_generation
from prompt_tuning_jax.checkpoints.huggingface.hub import resolve
from prompt_tuning_jax.checkpoints.quantize import check_float
from prompt_tuning_jax.checkpoints.stored_array import StoredArray, read_arrays
from prompt_tuning_jax.checkpoints.weight_comparison import WeightComparison, compare_weights
from prompt_tuning_jax.decoding.defaults import NO_DEFAULTS, GenerationDefaults
from prompt_tuning_jax.devices.sharding import Conversion, Shardings
from prompt_tuning_jax.models.family import NetworkConfig
from prompt_tuning_jax.vocabularies import (
    SentencePieceVocabulary,
    Vocabulary,
    has_vocabulary,
    load_vocabulary,
)

# Tables are padded to a round number of rows, but T5's vocabulary (32,100) is not mT5's (250,100).
_SPARE_ROWS = 4
MODULES = "modules.json"  # sentence-transformers' mark
_UNKNOWN = "\U0010fffd"  # a character that no vocabulary has: unknown, or spelled in bytes
_OUTPUT: Mapping[str, Any] = {"lm_head.weight": None}  # as if the weights had an output layer


def load(
    directory_or_hub_name: str | os.PathLike,
    dtype: Any = jnp.float32,
    report: Callable[[WeightComparison], None] | None = None,
    shardings: Shardings | None = None,
    convert: Conversion | None = None,
) -> tuple[NetworkConfig, dict[str, Any], Vocabulary | None]:
    """Loads a T5, one of its relatives, a T5Gemma or a causal model; `config` says which.

    Args:
      directory_or_hub_name: a directory, or a name on the hub where there is a network.
      dtype: of weights and activations, float32 or bfloat16, whatever the files hold.
      report: called with the table of weights before any is read; `print` shows it.
      shardings: where each weight goes; `functools.partial(sharding.param_shardings, mesh)`.
        Each device's part is then read alone.
      convert: what replaces each weight as soon as it is read, so that the model is never in
        memory as the files hold it; `quantize.Quantizer()`.

    Returns:
      The config; the weights nested under our names, T5's being T5X's, as numpy arrays or, with
      `shardings`, as arrays on the devices; the vocabulary, None where the directory has none.

    Raises:
      FileNotFoundError: no such directory or hub name, or files are missing in it.
      ValueError: weights are missing, of the wrong shape or corrupt, or the model is of no
        kind that is known.
    """
    config, weights, vocabulary = load_lazily(directory_or_hub_name, dtype, report)
    places = shardings(config, weights) if shardings else {}
    return config, unflatten_dict(read_arrays(weights, places, convert), sep="/"), vocabulary


def load_lazily(
    directory_or_hub_name: str | os.PathLike,
    dtype: Any = jnp.float32,
    report: Callable[[WeightComparison], None] | None = None,
) -> tuple[NetworkConfig, dict[str, StoredArray], Vocabulary | None]:
    """As `load`, but each weight, under our flat name, is read when it is made an array."""
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"A model is loaded as float32 or bfloat16, not {dtype}.")
    directory = resolve(directory_or_hub_name)
    if (directory / MODULES).is_file():
        raise ValueError(
            f"{directory} is a text-embedding model ({MODULES} is in it): it is for `prompt-tuning "
            "embed`, `index`, `search` and `train --task_kind retrieval`, and in Python for "
            "`load_embedding_model`."
        )
    if not (directory / CONFIG).is_file():
        found = ", ".join(sorted(child.name for child in directory.iterdir())[:6]) or "nothing"
        raise FileNotFoundError(
            f"{directory} holds no model: neither config.json (Hugging Face) nor checkpoint or "
            f"state/ (T5X) is there, but {found}."
        )
    form = format_in(directory / CONFIG)
    stored = form.arrays(directory)
    found = load_vocabulary(directory) if has_vocabulary(directory) else None
    config = form.read_config(directory / CONFIG, stored, dtype, found and found.eos_id)
    comparison = compare_weights(str(directory), form.weight_names(config), stored, CONFIG)
    if report is not None:
        report(comparison)
    comparison.require_complete()
    comparison.refuse_unknown_layers(f"Correct {CONFIG}.", harmless=form.harmless)
    vocabulary = found and fit_vocabulary(found, directory, config)
    form.check(config, stored)
    weights = {}
    for theirs, (ours, _) in comparison.matched.items():
        weight = stored[theirs].as_floats(dtype)
        weights[ours] = weight.transposed() if form.is_transposed(config, ours) else weight
    return config, weights, vocabulary


def save(
    directory: str | os.PathLike,
    config: NetworkConfig,
    params: Mapping[str, Any],
    vocabulary: Vocabulary | None = None,
    max_shard_bytes: int = 5 * 10**9,
    generation: GenerationDefaults = NO_DEFAULTS,
) -> None:
    """Writes a directory that `load` and transformers read back bit for bit; all of it or nothing.

    Where the directory already holds a model of this shape, its weights are replaced in one step.

    Args:
      params: the weights nested under our names, float32 or bfloat16, without a prompt.
      max_shard_bytes: weights larger than this in sum are split over several files.
      generation: how the model's files want text to be generated.

    Raises:
      FileExistsError: the directory is a file, or holds a model of another shape.
      ValueError: the weights are not those of `config`.
    """
    directory = Path(directory)
    flat = flatten_dict(params, sep="/")
    form = format_of(config)
    names = form.weight_names(config)
    check_float(flat)
    _check_saved(flat, config)
    _check_replaceable(directory, config)
    with scratch_directory(directory) as partial:
        dtypes = {str(weight.dtype) for weight in flat.values()}
        described = form.config_json(config, max(dtypes))  # "float32" if any weight is
        (partial / CONFIG).write_text(described, encoding="utf-8")
        if generation != NO_DEFAULTS:
            write_generation(partial / GENERATION, config, generation)
        if vocabulary is not None:
            vocabulary.save(partial)
        by_name = {
            theirs: (form.is_transposed(config, ours), flat[ours])
            for theirs, (ours, _) in names.items()
        }
        write_weights(partial, by_name, max_shard_bytes, unused_stem(directory))
        install(partial, directory)


def vocabulary_of(directory: Path) -> Vocabulary:
    """The vocabulary of the model in a directory, whose weights need not be there.

    Raises:
      FileNotFoundError, ValueError: as `read_vocabulary`.
    """
    found, path = load_vocabulary(directory), directory / CONFIG
    config = format_in(path).read_config(path, _OUTPUT, jnp.float32, found.eos_id)
    return fit_vocabulary(found, directory, config)


def read_vocabulary(path: str | os.PathLike, config: NetworkConfig) -> Vocabulary:
    """The vocabulary of a model, from its file or a directory that holds one.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it is corrupt, or not that of the model, as `fit_vocabulary` says.
    """
    return fit_vocabulary(load_vocabulary(path), path, config)


def fit_vocabulary(
    vocabulary: Vocabulary, path: str | os.PathLike, config: NetworkConfig
) -> Vocabulary:
    """The vocabulary that was found at `path`, with the model's ids for padding and the start.

    Raises:
      ValueError: it has more ids than the model, or far fewer, or others for the end and padding.
    """
    apart = "they do not belong together. Pass all files of the tokenizer that came with the model."
    if config.continues_inputs and isinstance(vocabulary, SentencePieceVocabulary):
        raise ValueError(
            f"{path} is a SentencePiece model, which does not say what a causal model's texts "
            "begin with: pass the model's tokenizer.json. transformers 5 writes one when it saves "
            "the tokenizer."
        )
    # Gemma 3's vocabulary has a token for images, which its text models do not embed.
    needed = vocabulary.pieces if config.continues_inputs else vocabulary.size
    if needed > config.vocab_size:
        raise ValueError(
            f"{path} has {needed} ids ({vocabulary.extra_ids} of them extra), but the "
            f"model embeds only {config.vocab_size}: {apart}"
        )
    if vocabulary.size * _SPARE_ROWS < config.vocab_size:
        raise ValueError(
            f"{path} has {vocabulary.size} ids, but the model embeds {config.vocab_size}: {apart}"
        )
    if vocabulary.eos_id != config.eos_id:
        raise ValueError(
            f"{path} ends a text with the id {vocabulary.eos_id}, but the model, by its "
            f"{CONFIG}, with {config.eos_id}: {apart}"
        )
    if _may_stand_in_texts(config.pad_id, vocabulary):
        remedy = " Or set pad_token_id to null: padding then has an id of its own."
        remedy = remedy if config.continues_inputs else ""
        raise ValueError(
            f"{path} has padding at the id {vocabulary.pad_id}, but the model, by its {CONFIG}, "
            f"at {config.pad_id}, which texts may hold: {apart}{remedy}"
        )
    vocabulary = vocabulary.continuing() if config.continues_inputs else vocabulary
    vocabulary = vocabulary.with_ids(pad_id=config.pad_id, start_id=config.start_id)
    return vocabulary.within(config.vocab_size)


def _may_stand_in_texts(token: int, vocabulary: Vocabulary) -> bool:
    """Whether a text's ids may hold one, so that it cannot mark padding."""
    if token >= vocabulary.size:
        return False
    if token in (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id):
        return token in vocabulary.framed(vocabulary.encode(_UNKNOWN))
    return token != vocabulary.pad_id


def _check_saved(flat: Mapping[str, Any], config: NetworkConfig) -> None:
    form = format_of(config)
    needed = {
        ours: shape[::-1] if form.is_transposed(config, ours) else shape
        for ours, shape in form.weight_names(config).values()
    }
    given = {name: tuple(weight.shape) for name, weight in flat.items()}
    wrong = sorted(n for n in needed | given if needed.get(n) != given.get(n))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"These weights are not the config's: {len(wrong)} differ, first {name}: "
            f"given {given.get(name, 'none')}, needed {needed.get(name, 'none')}."
        )
    dtypes = {str(weight.dtype) for weight in flat.values()}
    if not dtypes <= {"float32", "bfloat16"}:
        raise ValueError(f"Weights are saved as float32 or bfloat16, not {sorted(dtypes)}.")


def _check_replaceable(directory: Path, config: NetworkConfig) -> None:
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file. Choose another path.")
    path = directory / CONFIG
    if path.is_file() and not _same_shape(path, config):
        raise FileExistsError(f"{directory} holds a model of another shape. Choose another path.")


def _same_shape(path: Path, config: NetworkConfig) -> bool:
    """Whether a `config.json` describes a model with the same weights."""
    form = format_in(path)
    output = {} if config.logits_via_embedding else _OUTPUT
    there = form.read_config(path, output, config.dtype, config.eos_id)
    return form.weight_names(there) == format_of(config).weight_names(config)
