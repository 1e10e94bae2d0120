"""Prompt files under T5X: written with every checkpoint, and read from any path.

MODEL_DIR/checkpoint_1101000   T5X's checkpoint, the whole model: the run continues from it
MODEL_DIR/prompts/1101000      the prompt alone, as `prompt_tuning_jax.load_prompt` reads it
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from t5x import checkpoints
from tensorflow.io import gfile

from prompt_tuning_jax import optim
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt, save_prompt
from prompt_tuning_jax.checkpoints.t5x.hash_cache import checkpoint_fingerprint
from prompt_tuning_jax.checkpoints.t5x.storage import is_url
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.params import flatten, is_prompt, label_params, unflatten
from prompt_tuning_jax.tuned_prompt import TunedPrompt

DIRECTORY = "prompts"


def write_prompt(
    state: Mapping[str, Any],
    infos: Any,
    *,
    model_dir: str,
    base_model: str,
    task: str,
    config: T5Config,
    layout: str,
    trainable: Sequence[optim.Rule],
) -> tuple[Mapping[str, Any], Any]:
    """Writes the prompt of a state that T5X is about to save; the state stays as it is.

    T5X calls `SaveCheckpointConfig.state_transformation_fns` at every save, in today's format and
    in its old one, on every host; `checkpointer_cls` is ignored by today's.

    Args:
      base_model: the checkpoint that the run started from.
      trainable: the rules of what trains.
    """
    params = flatten(state["target"])
    if (name := next(filter(is_prompt, params), None)) is not None:
        values = _on_host(params[name])
        identity = _fingerprint(params, base_model, trainable)
        if jax.process_index() == 0:
            step = int(_on_host(state["state"]["step"]))
            with local_directory(os.path.join(model_dir, DIRECTORY, str(step))) as directory:
                save_prompt(
                    directory,
                    TunedPrompt(values, layout, visibility=config.prompt_visibility),
                    base_model=base_model,
                    fingerprint=identity,
                    task=task,
                    step=step,
                )
    return state, infos


def read_prompt(path: str) -> TunedPrompt:
    """A prompt file from any path that TensorFlow reads, gs:// included.

    Raises:
      FileNotFoundError, ValueError: as `load_prompt`.
    """
    with _local_copy(path) as local:
        return load_prompt(local)


def prompts_beside(checkpoint: str) -> str | None:
    """The prompt file that was written with a checkpoint of a training run, if it is there."""
    model_dir, name = os.path.split(checkpoint.rstrip("/"))
    path = os.path.join(model_dir, DIRECTORY, name.removeprefix("checkpoint_"))
    return path if gfile.exists(path) else None


@contextlib.contextmanager
def local_directory(path: str) -> Iterator[Path]:
    """A directory to write into; what is in it at the end is at `path`, remote or not."""
    if not is_url(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as local:
        yield Path(local)
        gfile.makedirs(path)
        for file in sorted(os.listdir(local)):
            gfile.copy(os.path.join(local, file), os.path.join(path, file), overwrite=True)


@contextlib.contextmanager
def _local_copy(path: str) -> Iterator[Path]:
    if not is_url(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as local:
        is_directory = gfile.isdir(path)
        for file in gfile.listdir(path) if is_directory else [os.path.basename(path)]:
            source = os.path.join(path, file) if is_directory else path
            gfile.copy(source, os.path.join(local, file))
        yield Path(local) if is_directory else Path(local) / os.path.basename(path)


def _fingerprint(
    params: Mapping[str, Any], base_model: str, trainable: Sequence[optim.Rule]
) -> str | None:
    """Of the weights that the prompt is for; None where no host of this run could tell.

    Weights that do not train are the base checkpoint's, whose fingerprint need not be made anew.
    """
    frozen = all(map(is_prompt, label_params(list(params), trainable)))
    found = base_fingerprint(base_model) if frozen else None
    if found is not None or jax.process_count() > 1:
        return found
    weights = {name: _on_host(x) for name, x in params.items() if not is_prompt(name)}
    return fingerprint(unflatten(weights))


def base_fingerprint(checkpoint: str) -> str | None:
    """The fingerprint of a base checkpoint's weights, which one host finds out for all.

    None where the checkpoint is no longer there, as a run that continues does not need it.
    """
    unknown = "0" * 64
    found = unknown
    if jax.process_index() == 0:
        with contextlib.suppress(FileNotFoundError):
            found = checkpoint_fingerprint(checkpoint)
    if jax.process_count() > 1:
        digits = np.frombuffer(bytes.fromhex(found), np.uint8)
        found = np.asarray(multihost_utils.broadcast_one_to_all(digits)).tobytes().hex()
    return None if found == unknown else found


def _on_host(x: Any) -> np.ndarray:
    """The whole array, whichever hosts hold its parts."""
    if isinstance(x, checkpoints.LazyArray):
        x = x.get()
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        x = multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)
