"""Frozen T5 models in Hugging Face's format: `config.json`, safetensors, `spiece.model`.

    config, params, vocabulary = huggingface.load("flan-t5-small", report=print)

Only safetensors are read: a pickled `pytorch_model.bin` can run code.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from prompt_tuning_jax.checkpoints.atomic import scratch_directory
from prompt_tuning_jax.checkpoints.huggingface.config import read_config, write_config
from prompt_tuning_jax.checkpoints.huggingface.files import (
    DOWNLOADED,
    LazyWeight,
    Stored,
    check_copies,
    has_weights,
    how_to_convert,
    install,
    read_weights,
    stored_weights,
    unused_stem,
    write_weights,
)
from prompt_tuning_jax.checkpoints.huggingface.names import (
    EMBEDDING_COPIES,
    NO_EFFECT,
    is_transposed,
    weight_names,
)
from prompt_tuning_jax.checkpoints.json_file import read_json
from prompt_tuning_jax.checkpoints.quantize import check_float
from prompt_tuning_jax.checkpoints.weight_check import Shape, WeightReport
from prompt_tuning_jax.data.vocabulary import Vocabulary
from prompt_tuning_jax.devices.sharding import Conversion, Shardings
from prompt_tuning_jax.models.t5.config import T5Config

# The model that comes with the package.
BUNDLED = Path(__file__).parents[2] / "bundled" / "model"
_CONFIG = "config.json"
_VOCABULARY = "spiece.model"
_TOKENIZER = "tokenizer_config.json"
# Who turns pickles on the hub into safetensors, and what its pull requests are called.
_BOT, _OFFER = "SFconvertbot", "Adding `safetensors` variant of this model"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def load(
    directory_or_hub_name: str | os.PathLike,
    dtype: Any = jnp.float32,
    report: Callable[[WeightReport], None] | None = None,
    shardings: Shardings | None = None,
    convert: Conversion | None = None,
) -> tuple[T5Config, dict[str, Any], Vocabulary | None]:
    """Loads a T5 1.0, T5 1.1 or mT5.

    Args:
      directory_or_hub_name: a directory, or a name on the hub where there is a network.
      dtype: of weights and activations, float32 or bfloat16, whatever the files hold.
      report: called with the table of weights before any is read; `print` shows it.
      shardings: where each weight goes; `functools.partial(sharding.param_shardings, mesh)`.
        Each device's part is then read alone.
      convert: what replaces each weight as soon as it is read, so that the model is never in
        memory as the files hold it; `quantize.Quantizer()`.

    Returns:
      The config; the weights nested under T5X's names, as numpy arrays or, with `shardings`, as
      arrays on the devices; the vocabulary, None where the directory has no `spiece.model`.

    Raises:
      FileNotFoundError: no such directory or hub name, or files are missing in it.
      ValueError: weights are missing, of the wrong shape or corrupt, or the model is no T5.
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"A model is loaded as float32 or bfloat16, not {dtype}.")
    directory = resolve(directory_or_hub_name)
    if not (directory / _CONFIG).is_file():
        found = ", ".join(sorted(child.name for child in directory.iterdir())[:6]) or "nothing"
        raise FileNotFoundError(
            f"{directory} holds no model: neither config.json (Hugging Face) nor checkpoint or "
            f"state/ (T5X) is there, but {found}."
        )
    stored = stored_weights(directory)
    config = read_config(directory / _CONFIG, "lm_head.weight" in stored, dtype)
    found = _compare(directory, config, stored)
    if report is not None:
        report(found)
    found.require_complete()
    _check_unexpected(found)
    vocabulary = None
    if (directory / _VOCABULARY).is_file():
        vocabulary = read_vocabulary(directory, config)
    check_copies(stored)
    weights = {
        ours: LazyWeight(stored[theirs], is_transposed(ours), dtype)
        for theirs, (ours, _) in found.matched.items()
    }
    places = shardings(config, weights) if shardings else {}
    return config, unflatten_dict(read_weights(weights, places, convert), sep="/"), vocabulary


def save(
    directory: str | os.PathLike,
    config: T5Config,
    params: Mapping[str, Any],
    vocabulary: Vocabulary | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a directory that `load` and transformers read back bit for bit; all of it or nothing.

    Where the directory already holds a model of this shape, its weights are replaced in one step.

    Args:
      params: the weights nested under T5X's names, float32 or bfloat16, without a prompt.
      max_shard_bytes: weights larger than this in sum are split over several files.

    Raises:
      FileExistsError: the directory is a file, or holds a model of another shape.
      ValueError: the weights are not those of `config`.
    """
    directory = Path(directory)
    flat = flatten_dict(params, sep="/")
    names = weight_names(config)
    check_float(flat)
    _check_saved(flat, names)
    _check_replaceable(directory, config)
    with scratch_directory(directory) as partial:
        dtypes = {str(weight.dtype) for weight in flat.values()}
        write_config(partial / _CONFIG, config, max(dtypes))  # "float32" if any weight is
        if vocabulary is not None:
            (partial / _VOCABULARY).write_bytes(vocabulary.model_bytes)
            tokenizer = {"tokenizer_class": "T5Tokenizer", "extra_ids": vocabulary.extra_ids}
            (partial / _TOKENIZER).write_text(json.dumps(tokenizer, indent=2) + "\n")
        by_name = {theirs: (ours, flat[ours]) for theirs, (ours, _) in names.items()}
        write_weights(partial, by_name, max_shard_bytes, unused_stem(directory))
        install(partial, directory)


def resolve(directory_or_hub_name: str | os.PathLike) -> Path:
    """The directory of a model, downloaded if a hub name is given.

    Of a model that is on the hub as a pickle only, what the hub's own bot has made of it is taken:
    safetensors, which it offers as a pull request.

    Raises:
      FileNotFoundError: it is neither a directory here nor a name that the hub gives out, or the
        hub has no safetensors of it.
    """
    path = Path(directory_or_hub_name).expanduser()
    if path.is_dir():
        return path
    name = os.fspath(directory_or_hub_name)
    if path.is_file():
        raise FileNotFoundError(f"{path} is a file. Pass the directory of a T5.")
    if not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(f"There is no directory {path}. Pass the directory of a T5.")
    try:
        directory = _download(name)
        if not has_weights(directory) and (converted := _conversion(name)):
            directory = _download(name, converted)
    except Exception as error:  # the client raises many kinds: no network, no such name, no access
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise FileNotFoundError(
            f"There is no directory {path}, and {name!r} could not be fetched from the Hugging "
            f"Face hub ({reason}). Download it where there is a network (config.json, the "
            "safetensors files, spiece.model) and pass the path of that directory."
        ) from error
    if not has_weights(directory):
        raise FileNotFoundError(
            f"{name} has no safetensors on the Hugging Face hub, and its bot offers none; a "
            f"{how_to_convert(name)}"
        )
    return directory


def _download(name: str, revision: str | None = None) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [*DOWNLOADED, _CONFIG, _VOCABULARY, _TOKENIZER]
    return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))


def _conversion(name: str) -> str | None:
    """The revision at which the hub's bot offers a model's weights as safetensors."""
    from huggingface_hub import get_repo_discussions
    from huggingface_hub.errors import HfHubHTTPError

    kind = {"discussion_type": "pull_request", "discussion_status": "open"}
    try:
        offers = list(get_repo_discussions(name, author=_BOT, **kind))
    except HfHubHTTPError:  # where a model takes no pull requests
        return None
    return next((one.git_reference for one in offers if one.title == _OFFER), None)


def _compare(directory: Path, config: T5Config, stored: Mapping[str, Stored]) -> WeightReport:
    names = weight_names(config)
    here = {name: stored[name].shape for name in names if name in stored}
    return WeightReport(
        source=str(directory),
        matched={n: names[n] for n, shape in here.items() if shape == names[n][1]},
        missing={n: shape for n, (_, shape) in names.items() if n not in here},
        misshapen={n: (s, names[n][1]) for n, s in here.items() if s != names[n][1]},
        unexpected={n: s.shape for n, s in stored.items() if n not in names},
    )


def _check_unexpected(found: WeightReport) -> None:
    """Refuses weights of layers that the config lacks: the config is wrong, they are not spare."""
    spare = [n for n in found.unexpected if n != NO_EFFECT and n not in EMBEDDING_COPIES]
    layers = [name for name in spare if re.match(r"(encoder|decoder)\.block\.", name)]
    if layers:
        raise ValueError(
            f"{found.source} holds {len(layers)} weight(s) of layers that its config.json does "
            f"not describe, {layers[0]} first. Correct config.json."
        )
    if spare:
        logging.warning("%s: unused weights %s", found.source, ", ".join(spare))


def read_vocabulary(path: str | os.PathLike, config: T5Config) -> Vocabulary:
    """The vocabulary of a model: a `spiece.model`, or a directory that holds one.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it is corrupt, or has more ids than the model.
    """
    path = Path(path).expanduser()
    path = path / _VOCABULARY if path.is_dir() else path
    tokenizer = path.with_name(_TOKENIZER)
    extra_ids = read_json(tokenizer).get("extra_ids", 100) if tokenizer.is_file() else 100
    vocabulary = Vocabulary.load(path, extra_ids)
    if vocabulary.size > config.vocab_size:
        raise ValueError(
            f"{path} has {vocabulary.size} ids ({vocabulary.extra_ids} of them extra), but the "
            f"model embeds only {config.vocab_size}: they do not belong together."
        )
    return vocabulary


def _check_saved(flat: Mapping[str, Any], names: Mapping[str, tuple[str, Shape]]) -> None:
    needed = {
        ours: tuple(reversed(shape)) if is_transposed(ours) else shape
        for ours, shape in names.values()
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


def _check_replaceable(directory: Path, config: T5Config) -> None:
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file. Choose another path.")
    path = directory / _CONFIG
    if path.is_file():
        there = read_config(path, not config.logits_via_embedding, config.dtype)
        if weight_names(there) != weight_names(config):
            raise FileExistsError(
                f"{directory} holds a model of another shape. Choose another path."
            )
