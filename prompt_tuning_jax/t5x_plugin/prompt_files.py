"""Prompt files under T5X: written with every checkpoint, and read from any path.

MODEL_DIR/checkpoint_1101000   T5X's checkpoint, the whole model: the run continues from it
MODEL_DIR/prompts/1101000      the prompt alone, as `prompt_tuning_jax.load_prompt` reads it
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from t5x import checkpoints
from tensorflow.io import gfile

from prompt_tuning_jax import optim
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.checkpoints.prompt_file import TunedPrompt, load_prompt, save_prompt
from prompt_tuning_jax.checkpoints.t5x_storage import is_url
from prompt_tuning_jax.t5.config import T5Config

DIRECTORY = "prompts"


def is_prompt(name: str) -> bool:
    """Whether a parameter is a prompt, by its flat name, in an encoder or a decoder."""
    return name.endswith("/prompt")


def write_prompt(
    state: Mapping[str, Any],
    infos: Any,
    *,
    model_dir: str,
    base_model: str,
    task: str,
    config: T5Config,
) -> tuple[Mapping[str, Any], Any]:
    """Writes the prompt of a state that T5X is about to save; the state stays as it is.

    T5X calls `SaveCheckpointConfig.state_transformation_fns` at every save, in today's format and
    in its old one, on every host; `checkpointer_cls` is ignored by today's.
    """
    params = optim.flatten(state["target"])
    if (name := next(filter(is_prompt, params), None)) is not None:
        values = _on_host(params[name])
        identity = _fingerprint(params)
        if jax.process_index() == 0:
            step = int(_on_host(state["state"]["step"]))
            with local_directory(os.path.join(model_dir, DIRECTORY, str(step))) as directory:
                save_prompt(
                    directory,
                    TunedPrompt(values, visibility=config.prompt_visibility),
                    base_model=base_model,
                    fingerprint=identity,
                    task=task,
                    step=step,
                )
    return state, infos


def read_prompt(path: str) -> TunedPrompt:
    """A prompt file from any path that TensorFlow reads, gs:// included.

    Raises:
      FileNotFoundError, ValueError: as `load_prompt`; or the prompt does not stand as a prefix.
    """
    with _local_copy(path) as local:
        prompt = load_prompt(local)
    if prompt.layout != "prefix":
        raise ValueError(
            f"The prompt in {path} stands as {prompt.layout!r}, but T5X's batches leave room only "
            "for a prefix: use `python -m prompt_tuning_jax.evaluate` or `.infer` with it."
        )
    return prompt


@contextmanager
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


@contextmanager
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


def _fingerprint(params: Mapping[str, Any]) -> str | None:
    """Of the weights without the prompt; None where one host does not hold them all."""
    if jax.process_count() > 1:
        return None
    return fingerprint(
        optim.unflatten({name: _on_host(x) for name, x in params.items() if not is_prompt(name)})
    )


def _on_host(x: Any) -> np.ndarray:
    """The whole array, whichever hosts hold its parts."""
    if isinstance(x, checkpoints.LazyArray):
        x = x.get()
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        x = multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)
