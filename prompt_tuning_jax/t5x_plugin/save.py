"""What a run tunes, as small files: written with every checkpoint, and read from any path.

MODEL_DIR/checkpoint_1101000   T5X's checkpoint, the whole model: the run continues from it
MODEL_DIR/prompts/1101000      the prompt alone, as `prompt_tuning_jax.load_prompt` reads it
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from t5x import checkpoints
from tensorflow.io import gfile

from prompt_tuning_jax import optim
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.checkpoints.t5x.hash_cache import checkpoint_fingerprint
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.params import flatten, label_params, unflatten
from prompt_tuning_jax.t5x_plugin.files import FIRST_TASK, PROMPTS, local_copy
from prompt_tuning_jax.t5x_plugin.leaves import is_tuned
from prompt_tuning_jax.t5x_plugin.methods.method import Facts, Method
from prompt_tuning_jax.tuned_prompt import TunedPrompt


def write_tuned(
    state: Mapping[str, Any],
    infos: Any,
    *,
    model_dir: str,
    base_model: str,
    task: Any,
    config: T5Config,
    layout: str,
    trainable: Sequence[optim.Rule],
    method: Method,
) -> tuple[Mapping[str, Any], Any]:
    """Writes what is tuned of a state that T5X is about to save; the state stays as it is.

    T5X calls `SaveCheckpointConfig.state_transformation_fns` at every save, in today's format and
    in its old one, on every host; `checkpointer_cls` is ignored by today's.

    Args:
      base_model: the checkpoint that the run started from.
      trainable: the rules of what trains.
    """
    params = flatten(state["target"])
    leaves = {name: _on_host(x) for name, x in params.items() if is_tuned(name)}
    if leaves:
        identity = _fingerprint(params, base_model, trainable)
        step = int(_on_host(state["state"]["step"]))
        if jax.process_index() == 0:
            told = model_dir, step, config, layout, base_model, identity, task
            method.write(leaves, Facts(*told))
    return state, infos


def read_prompt(path: str) -> TunedPrompt:
    """A prompt file from any path that TensorFlow reads, gs:// included.

    Raises:
      FileNotFoundError, ValueError: as `load_prompt`.
    """
    with local_copy(path) as local:
        return load_prompt(local)


def prompts_beside(checkpoint: str) -> str | None:
    """The prompt file that was written with a checkpoint of a training run, if it is there.

    Of several tasks it is the first one's, which is as long as the others and stands where they do.
    """
    model_dir, name = os.path.split(checkpoint.rstrip("/"))
    path = os.path.join(model_dir, PROMPTS, name.removeprefix("checkpoint_"))
    places = os.path.join(path, FIRST_TASK), path
    return next((place for place in places if gfile.exists(place)), None)


def _fingerprint(
    params: Mapping[str, Any], base_model: str, trainable: Sequence[optim.Rule]
) -> str | None:
    """Of the weights that what is tuned is for; None where no host of this run could tell.

    Weights that do not train are the base checkpoint's, whose fingerprint need not be made anew.
    """
    frozen = all(map(is_tuned, label_params(list(params), trainable)))
    found = base_fingerprint(base_model) if frozen else None
    if found is not None or jax.process_count() > 1:
        return found
    weights = {name: _on_host(x) for name, x in params.items() if not is_tuned(name)}
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
