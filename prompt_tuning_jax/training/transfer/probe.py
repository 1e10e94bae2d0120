"""A task's embedding, its prompt after a few steps of its own; and where that lets a run start."""

import functools
import os

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from prompt_tuning_jax.data.batches import TrainBatches
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.methods.assemble import folded
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.optim import averages
from prompt_tuning_jax.params import PROMPT_NAME
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.rules import make_optimizer, start_optimizer
from prompt_tuning_jax.training.step_types import Params
from prompt_tuning_jax.training.train_step import make_train_step
from prompt_tuning_jax.training.transfer.nearest import Nearest, Start, candidates, nearest_start


def find_start(
    config: TrainConfig,
    asked: Nearest,
    own: str | os.PathLike[str],
    model: FrozenModel,
    trainable: Params,
    frozen: Params,
    batches: TrainBatches,
    mesh: Mesh,
) -> Start:
    """Where a run starts that is to start at the nearest prompts of a folder.

    Args:
      own: where the run and those beside it write, see `candidates`.
      trainable: as the run begins otherwise; it is given up.

    Raises:
      FileNotFoundError, ValueError: see `candidates` and `embed_task`.
    """
    check = functools.partial(model.check, allow_prompt_mismatch=config.allow_prompt_mismatch)
    sources = candidates(asked, config.input_rows, own, check)
    embedding = embed_task(config, model, trainable, frozen, batches, mesh)
    return nearest_start(asked, sources, embedding, config.probe_steps)


def embed_task(
    config: TrainConfig,
    model: FrozenModel,
    trainable: Params,
    frozen: Params,
    batches: TrainBatches,
    mesh: Mesh,
) -> Float[np.ndarray, "P D"]:
    """The prompt after `probe_steps` of a run; its data then stand where they stood.

    Args:
      trainable: as the run begins; it is given up.

    Raises:
      ValueError: a step was not finite.
    """
    optimizer = make_optimizer(config, trainable)
    opt_state = start_optimizer(mesh, model, optimizer, trainable)
    step = make_train_step(config, model, optimizer)
    key, rows = jax.random.key(config.seed), sharding.batch_sharding(mesh)
    position = batches.get_state()
    finite = True
    for number in range(config.probe_steps):
        batch = sharding.put(next(batches), rows)
        at = jax.random.fold_in(key, number)
        trainable, opt_state, metrics = step(trainable, opt_state, frozen, batch, at)
        finite &= metrics["finite"]
    batches.set_state(position)
    if not finite:
        raise ValueError(
            f"In the {config.probe_steps} steps before {spelled('prompt_init')} looks for the "
            f"nearest prompts a loss or gradient was not finite: lower {spelled('learning_rate')}."
        )
    return np.asarray(sharding.to_host(folded(averages(opt_state) or trainable)[PROMPT_NAME]))
