"""What a method costs: numbers that train, memory of a step, bytes that are kept."""

import math
from pathlib import Path

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.methods.parameterizations import choice as parameterizations
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.compiled_step import compile_if_it_fits, step_and_shapes
from prompt_tuning_jax.training.private.budget import with_any_noise


def costs_of(config: TrainConfig, model: FrozenModel) -> tuple[int, int]:
    """(numbers that train, bytes on each device while a step runs), by the compiler's word.

    Rows are as long as `feature_lengths` allows.
    """
    mesh = sharding.make_mesh(config.mesh)
    config = with_any_noise(config)
    step, shapes = step_and_shapes(config, model, mesh if mesh.size > 1 else None)
    fixed = parameterizations.frozen_names(config.prompt_parameterization)
    trained = sum(math.prod(x.shape) for name, x in shapes[0].items() if name not in fixed)
    _, memory = compile_if_it_fits(step.lower(*shapes))
    return trained, memory


def stored_bytes(directory: Path) -> int:
    """Of the arrays that a run keeps."""
    return sum(file.stat().st_size for file in directory.rglob("*.safetensors"))
