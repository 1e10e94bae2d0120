"""Frozen T5 models in T5X's format, legacy (msgpack and zarr) or Orbax; T5X is not needed.

    config, params = t5x.load("gs://t5-data/.../checkpoint_1100000", report=print)
    t5x.save("converted", params, step=0)                         # -> converted/checkpoint_0
    t5x.add_prompt("t5/checkpoint_1100000", prompt, "with_prompt")

Optimizer state is never read by `load`. With `shardings`, each device's part of a weight is read
alone, and no host holds a whole weight of which it needs a part.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from prompt_tuning_jax.checkpoints.atomic import flush_to_disk, scratch_directory
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.checkpoints.huggingface.config import config_json, parse_config
from prompt_tuning_jax.checkpoints.huggingface.names import t5x_shapes
from prompt_tuning_jax.checkpoints.quantize import check_float
from prompt_tuning_jax.checkpoints.stored_array import StoredArray, read_arrays
from prompt_tuning_jax.checkpoints.t5x import legacy as t5x_legacy
from prompt_tuning_jax.checkpoints.t5x import orbax as t5x_orbax
from prompt_tuning_jax.checkpoints.t5x.checkpoint import (
    STEP,
    TARGET,
    open_checkpoint,
    prompt_names,
)
from prompt_tuning_jax.checkpoints.t5x.config import check_config, infer_config
from prompt_tuning_jax.checkpoints.t5x.storage import Storage, is_url
from prompt_tuning_jax.checkpoints.t5x.weights import find_weights
from prompt_tuning_jax.checkpoints.weight_comparison import WeightComparison, compare_weights
from prompt_tuning_jax.devices.sharding import Conversion, Shardings
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.params import PROMPT_NAME, is_prompt
from prompt_tuning_jax.tuned_prompt import TunedPrompt, check_compatible

CONFIG = "t5_config.json"  # as Hugging Face's config.json; T5X has its own elsewhere, and no such
_WRITERS = {"orbax": t5x_orbax.write, "legacy": t5x_legacy.write}
FORMS = tuple(_WRITERS)
_MAX_READERS = 4
_BYTES_IN_TRANSIT = 2**30  # a leaf is one chunk, or a few: to read a part is to decode all of it


def load(
    path: str | os.PathLike,
    dtype: Any = jnp.float32,
    shardings: Shardings | None = None,
    config: T5Config | None = None,
    report: Callable[[WeightComparison], None] | None = None,
    convert: Conversion | None = None,
    eos_id: int | None = None,
) -> tuple[T5Config, dict[str, Any]]:
    """Loads the frozen weights of a T5 or one of its relatives; a prompt among them is left out.

    Args:
      path: a checkpoint's directory, or a run's, whose latest complete checkpoint is taken;
        local, or a URL that tensorstore reads, such as `gs://bucket/folder`.
      dtype: of weights and activations, float32 or bfloat16, whatever is stored.
      shardings: where each weight goes; `functools.partial(sharding.param_shardings, mesh)`.
      config: what the checkpoint must be; its activations and dropout, which shapes do not
        tell, are taken over. By default that of the file CONFIG in the checkpoint, which `save`
        writes; without one it is inferred, see `infer_config`.
      report: called with the table of weights before any is read; `print` shows it.
      convert: as in `huggingface.load`.
      eos_id: what ends a text, by the model's vocabulary, for a config that is inferred.

    Returns:
      The config; the weights nested under T5X's names, as arrays on the devices if `shardings`
      is given, else as numpy arrays.

    Raises:
      FileNotFoundError: there is nothing at the path.
      ValueError: no T5X checkpoint, or unfinished or damaged; not a T5, or not the one asked
        for; weights are missing or misshapen.
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"A model is loaded as float32 or bfloat16, not {dtype}.")
    config, weights = load_lazily(path, dtype, config, report, eos_id)
    places = shardings(config, weights) if shardings else {}
    readers = _readers(weights.values(), convert is not None)
    values = read_arrays(weights, places, convert, readers)
    return config, unflatten_dict(values, sep="/")


def load_lazily(
    path: str | os.PathLike,
    dtype: Any = None,
    config: T5Config | None = None,
    report: Callable[[WeightComparison], None] | None = None,
    eos_id: int | None = None,
) -> tuple[T5Config, dict[str, StoredArray]]:
    """As `load`, but each weight, under its flat T5X name, is read when it is made an array.

    `dtype=None` keeps what is stored.
    """
    checkpoint = open_checkpoint(path)
    weights = find_weights(checkpoint.leaves(), dtype)
    inferred = infer_config(checkpoint.path, weights, dtype or jnp.float32, eos_id)
    config = config or _kept_config(checkpoint.path, inferred)
    if config is not None:
        check_config(checkpoint.path, inferred, config)
    config = dataclasses.replace(config or inferred, dtype=inferred.dtype)
    needed = {name: (name, shape) for name, shape in t5x_shapes(config).items()}
    comparison = compare_weights(checkpoint.path, needed, weights, "the config")
    if report is not None:
        report(comparison)
    comparison.require_complete()
    comparison.refuse_unknown_layers("It is another model's, and cannot be loaded as a T5.")
    return config, {name: weights[name] for name in comparison.matched}


def save(
    directory: str | os.PathLike,
    params: Mapping[str, Any],
    step: int = 0,
    form: str = "orbax",
    config: T5Config | None = None,
) -> Path:
    """Writes `directory/checkpoint_{step}`, which T5X restores bit for bit; all of it or nothing.

    It holds no optimizer state: training from it under T5X needs `fallback_to_scratch = True`.

    Args:
      params: nested or flat, of any dtype, with or without a prompt.
      form: "orbax", as T5X writes today, with all weights in memory; or "legacy", which every
        T5X reads and which is written leaf by leaf.
      config: what `load` is to know of the model beyond its shapes; kept in the file CONFIG.

    Raises:
      FileExistsError: the checkpoint is there already.
      ValueError: an unknown form, a path that is not local, or int8 weights.
    """
    flat = flatten_dict(params, sep="/")
    check_float(flat)
    leaves = {STEP: np.int32(step)} | {TARGET + name: value for name, value in flat.items()}
    kept = None if config is None else config_json(config, "float32").encode()
    return _write(directory, leaves, step, form, kept)


def add_prompt(
    base: str | os.PathLike,
    prompt: TunedPrompt,
    directory: str | os.PathLike,
    *,
    step: int | None = None,
    name: str | None = None,
    form: str | None = None,
    allow_prompt_mismatch: bool = False,
) -> Path:
    """Writes a checkpoint that is `base` with a prompt; every other leaf is kept as it is.

    Args:
      base: a T5X checkpoint; a prompt that it holds is replaced.
      step: the new checkpoint's; by default the base's.
      name: of the prompt's leaf; by default that of the base's prompt, or else this library's
        `encoder/prompt/prompt` (the reference implementation has `REFERENCE_PROMPT`).
      form: by default the base's.
      allow_prompt_mismatch: take a prompt that was tuned for other weights.

    Returns:
      The checkpoint written, `directory/checkpoint_{step}`.

    Raises:
      FileNotFoundError, ValueError: as `open_checkpoint`; or the prompt belongs to another model.
      FileExistsError: as `save`.
    """
    checkpoint = open_checkpoint(base)
    leaves = checkpoint.leaves("")
    weights = {n.removeprefix(TARGET): x for n, x in leaves.items() if n.startswith(TARGET)}
    there = prompt_names(checkpoint)
    if name is None and len(there) > 1:
        raise ValueError(f"{checkpoint.path} holds several prompts: name one of {there}.")
    name = name or (there or [PROMPT_NAME])[0]
    is_taken = name in weights and name not in there
    is_branch = any(other.startswith(f"{name}/") for other in weights)
    if not is_prompt(name) or is_taken or is_branch:
        raise ValueError(f"A prompt's leaf is called {PROMPT_NAME} or alike, not {name!r}.")
    _check_fits(prompt, checkpoint.path, weights, there, allow_prompt_mismatch)
    step = (checkpoint.step or 0) if step is None else step
    everything = {n: leaves.get(n) for n in checkpoint.sources}
    everything |= {STEP: np.int32(step), TARGET + name: prompt.values}
    kept = Storage(checkpoint.path).read(CONFIG)
    return _write(directory, everything, step, form or checkpoint.kind, kept)


def _check_fits(
    prompt: TunedPrompt, place: str, weights: Mapping[str, Any], prompts: list[str], allow: bool
) -> None:
    embedding = weights.get("token_embedder/embedding")
    if embedding is None:
        raise ValueError(
            f"{place} has no token_embedder/embedding: it is no T5 to add a prompt to."
        )
    ours = None
    if prompt.base_fingerprint is not None and not allow:
        frozen = find_weights({n: x for n, x in weights.items() if n not in prompts})
        ours = fingerprint(frozen)
    check_compatible(
        prompt, fingerprint=ours, emb_dim=embedding.shape[1], allow_prompt_mismatch=allow
    )


def _kept_config(checkpoint: str, inferred: T5Config) -> T5Config | None:
    kept = Storage(checkpoint).read(CONFIG)
    if kept is None:
        return None
    untied = not inferred.logits_via_embedding
    return parse_config(kept, f"{checkpoint}/{CONFIG}", untied, inferred.dtype)


def _readers(weights: Iterable[StoredArray], converts: bool) -> int:
    """How many leaves to read at a time: reads wait for disks and networks, but take memory."""
    if converts and jax.process_count() > 1:
        return 1  # all hosts convert the same weight together
    largest = max(weight.source.nbytes for weight in weights)
    return max(1, min(_MAX_READERS, _BYTES_IN_TRANSIT // largest))


def _write(
    directory: str | os.PathLike,
    leaves: Mapping[str, Any],
    step: int,
    form: str,
    config: bytes | None,
) -> Path:
    if form not in _WRITERS:
        raise ValueError(f"A T5X checkpoint is written as one of {FORMS}, not {form!r}.")
    if step < 0:
        raise ValueError(f"A checkpoint's step is 0 or more, not {step}.")
    if is_url(directory):
        raise ValueError(
            f"{directory} is not a local directory: write the checkpoint locally, then copy it."
        )
    checkpoint = Path(directory).expanduser().absolute() / f"checkpoint_{step}"
    if checkpoint.exists():
        raise FileExistsError(f"{checkpoint} is there already. Choose another directory or step.")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with scratch_directory(checkpoint) as scratch:
        written = scratch / checkpoint.name
        _WRITERS[form](written, leaves)
        if config is not None:
            (written / CONFIG).write_bytes(config)
            flush_to_disk(written / CONFIG)
        os.replace(written, checkpoint)
    return checkpoint
