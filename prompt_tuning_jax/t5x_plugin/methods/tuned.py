"""What an evaluation or inference uses: what a run has tuned, in a file or a checkpoint."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from prompt_tuning_jax.checkpoints.adapters.adapter import Adapter
from prompt_tuning_jax.checkpoints.adapters.adapter_file import load_adapter
from prompt_tuning_jax.checkpoints.stored_array import StoredArray
from prompt_tuning_jax.checkpoints.t5x.checkpoint import TARGET, T5XCheckpoint, open_checkpoint
from prompt_tuning_jax.methods.adapters.choice import is_leaf
from prompt_tuning_jax.models.adapters import PREFIX_KEY
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.params import is_prompt, unflatten
from prompt_tuning_jax.t5x_plugin.files import local_copy
from prompt_tuning_jax.t5x_plugin.leaves import is_tuned
from prompt_tuning_jax.t5x_plugin.methods.method import Arrays, PromptStart
from prompt_tuning_jax.t5x_plugin.restore import Starts
from prompt_tuning_jax.t5x_plugin.save import base_fingerprint
from prompt_tuning_jax.t5x_plugin.start import prompt_length


def tuned_values(
    prompt: PromptStart,
    prompt_file: str | None,
    adapter_file: str | None,
    checkpoint: str,
    config: T5Config,
    allow_prompt_mismatch: bool = False,
) -> Starts:
    """A prompt, and other leaves of an adapter's file or, without one, of a checkpoint.

    Args:
      prompt: of a shape, from `prompt_file` or the checkpoint.
      checkpoint: the base checkpoint, whose weights must be those that the adapter was tuned for,
        or that of a training run.

    Raises:
      ValueError: (when asked for values) there are none, or they are not the method's.
    """

    def values(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
        prompts = {name for name in shapes if is_prompt(name)}
        first = {name: prompt(shapes[name]) for name in prompts}
        wanted = {name for name in shapes if is_tuned(name)} - prompts
        _check_used(bool(prompts), prompt_file, "PROMPT_FILE")
        _check_used(bool(wanted), adapter_file, "ADAPTER_FILE")
        if not wanted:
            _check_no_adapter(checkpoint)
            return first
        if adapter_file:
            adapter = _read_adapter(adapter_file, config)
            sizes = {name: jax.ShapeDtypeStruct(x, np.float32) for name, x in shapes.items()}
            told = {"fingerprint": base_fingerprint(checkpoint), "vocabulary_hash": None}
            adapter.check(unflatten(sizes), lambda: told, allow_prompt_mismatch)
            found = dict(adapter.leaves)
        else:
            leaves = _beside_prompts(open_checkpoint(checkpoint))
            found = {name: leaf.read().astype(np.float32) for name, leaf in leaves.items()}
        _check(adapter_file or checkpoint, found, {name: shapes[name] for name in wanted})
        return first | found

    return values


def tuned_length(
    prompt_file: str | None, adapter_file: str | None, checkpoint: str, config: T5Config
) -> int:
    """How many rows the same prompt has, or the prefix in every layer.

    Raises:
      ValueError: there is neither.
    """
    if adapter_file:
        found: Mapping[str, Any] = _read_adapter(adapter_file, config).leaves
    else:
        found = {} if prompt_file else _beside_prompts(open_checkpoint(checkpoint))
    prefixes = [x.shape[0] for name, x in found.items() if name.endswith(PREFIX_KEY)]
    return prefixes[0] if prefixes else prompt_length(prompt_file, checkpoint)


def _beside_prompts(checkpoint: T5XCheckpoint) -> dict[str, StoredArray]:
    """What is tuned in a checkpoint and is no prompt."""
    leaves = checkpoint.leaves(TARGET).items()
    return {name: leaf for name, leaf in leaves if is_tuned(name) and not is_prompt(name)}


def _read_adapter(path: str, config: T5Config) -> Adapter:
    with local_copy(path) as local:
        return load_adapter(local, config)


def _check_used(is_used: bool, file: str | None, macro: str) -> None:
    if file and not is_used:
        raise ValueError(
            f"{macro} {file} is not for this run's method: use the file of methods/ that trained "
            "it, and none for a prompt."
        )


def _check_no_adapter(checkpoint: str) -> None:
    """A checkpoint's adapter is not left out in silence."""
    lost = filter(is_leaf, _beside_prompts(open_checkpoint(checkpoint)))
    if (name := next(lost, None)) is not None:
        raise ValueError(
            f"{checkpoint} has an adapter ({name}, ...), which this run's method has not: use the "
            "file of methods/ that trained it, or the base checkpoint."
        )


def _check(where: str, found: Arrays, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """What is found is what the method has, and of the same shape."""
    if not found:
        raise ValueError(
            f"{where} holds nothing that this method tunes: give ADAPTER_FILE, or in "
            "CHECKPOINT_PATH a checkpoint of a run with the same file of methods/."
        )
    if odd := sorted(found.keys() ^ wanted.keys()):
        raise ValueError(
            f"{where} was tuned by another method, or with other settings, than this model has: "
            f"{odd[0]} is in one of them alone. Use the file of methods/ that trained it."
        )
    for name, shape in wanted.items():
        if found[name].shape != shape:
            raise ValueError(
                f"{name} in {where} is {list(found[name].shape)}, this model's {list(shape)}: use "
                "the settings that it was tuned with."
            )
