"""The training step of some settings, traced and compiled from shapes: no batch, no weight is read.

What the compiler then says of its memory is what the step will take.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.initializers import uniform
from prompt_tuning_jax.methods import wayward
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.params import (
    PROMPT_NAME,
    flatten,
    split_params,
    unflatten,
    with_prompt,
    with_shared,
)
from prompt_tuning_jax.settings.task_config import lengths_of
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.adapters.start import leaves_at_start
from prompt_tuning_jax.training.private.sampling import rows_of_most
from prompt_tuning_jax.training.rules import Pace, make_optimizer, trainable_rules
from prompt_tuning_jax.training.set_up import prompt_leaves, shared_values
from prompt_tuning_jax.training.step_types import Params
from prompt_tuning_jax.training.train_step import make_train_step
from prompt_tuning_jax.training.trainers import make_stacked_step, start_stack

Shapes = tuple[Any, ...]


def step_and_shapes(
    config: TrainConfig, model: FrozenModel, mesh: Mesh | None, copies: int | None = None
) -> tuple[Any, Shapes]:
    """The jitted step, and what it is called with, as `jax.ShapeDtypeStruct`s.

    Rows are as long as `config.feature_lengths` allows.

    Args:
      model: its weights may be shapes, too.
      mesh: where the arguments are, by the library's own partition rules; None for one device.
      copies: N of runs that train together, None for a run alone.
    """
    rules = trainable_rules(config)
    trainable, frozen = split_params(_params(config, model), rules)
    trainable = {name: _shape(x.shape, jnp.float32) for name, x in trainable.items()}
    frozen = {name: _shape(x.shape, x.dtype) for name, x in frozen.items()}
    batch, key = _batch(config, mesh), jax.eval_shape(lambda: jax.random.key(0))
    if copies is None:
        optimizer = make_optimizer(config, trainable)
        trained = trainable, jax.eval_shape(optimizer.init, trainable)
        if mesh is not None:
            trained = _by_rules(trained, mesh, model)
        step, told = make_train_step(config, model, optimizer), (key,)
    else:
        stack = jax.eval_shape(lambda one: start_stack(config, [one] * copies), trainable)
        batch = {name: _shape((copies, *x.shape), x.dtype) for name, x in batch.items()}
        trained = (stack,)
        told = (
            _shape((copies,), key.dtype),
            Pace(*[_shape((copies,), jnp.float32)] * 2),
            _shape((), jnp.int32),
        )
        step = make_stacked_step(config, model)
    if mesh is None:
        return step, (*trained, frozen, batch, *told)
    rows = sharding.batch_sharding(mesh)
    if copies is not None:
        trained = _placed(trained, sharding.replicated(mesh))
        rows = NamedSharding(mesh, PartitionSpec(None, *rows.spec))
    told = _placed(told, sharding.replicated(mesh))
    return step, (*trained, _by_rules(frozen, mesh, model), _placed(batch, rows), *told)


def _params(config: TrainConfig, model: FrozenModel) -> Mapping[str, Any]:
    params = _with_prompt(config, model)
    if config.adapter is None:
        return params
    flat = flatten(params)
    make = functools.partial(leaves_at_start, config, flat, sample=uniform())
    return unflatten(flat | jax.eval_shape(make, jax.random.key(0)))


def _with_prompt(config: TrainConfig, model: FrozenModel) -> Mapping[str, Any]:
    if not config.input_rows:
        return model.params
    prompt = _shape((config.input_rows, model.config.emb_dim), jnp.float32)
    params = with_prompt(model.params, prompt)
    if config.shared_prompt is not None:
        shared = shared_values(config, model).shape
        params = with_shared(params, _shape(shared, jnp.float32))
    flat = flatten(params)
    if config.wayward_text is not None:
        flat[wayward.NAME] = prompt

    def leaves(prompt: jax.Array) -> Params:
        return prompt_leaves(config, prompt, jax.random.key(0), uniform())

    return unflatten(flat | jax.eval_shape(leaves, flat.pop(PROMPT_NAME)))


def _batch(config: TrainConfig, mesh: Mesh | None) -> dict[str, jax.ShapeDtypeStruct]:
    lengths, rows = lengths_of(config.feature_lengths), config.batch_size
    if config.is_private:
        rows = rows_of_most(config, sharding.batch_parts_of(mesh))
    targets = rows, lengths["targets"]
    return {
        "encoder_input_tokens": _shape((rows, lengths["inputs"]), np.int32),
        "decoder_input_tokens": _shape(targets, np.int32),
        "decoder_target_tokens": _shape(targets, np.int32),
        "decoder_loss_weights": _shape(targets, np.float32),
    }


def _shape(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _by_rules(tree: Any, mesh: Mesh, model: FrozenModel) -> Any:
    places = sharding.param_shardings(mesh, model.config, tree)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, places
    )


def _placed(tree: Any, place: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def compile_if_it_fits(lowered: Any) -> tuple[Any | None, int]:
    """The compiled step and its bytes on each device; None where it is too large for them.

    Compilers for TPUs refuse a step that does not fit, and say what it would take.
    """
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, needed_memory(str(error))
    return compiled, memory_of(compiled.memory_analysis())


def memory_of(stats: Any) -> int:
    """Bytes on a device: arguments, temporaries, results that have memory of their own, program."""
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    arrays = stats.argument_size_in_bytes + stats.temp_size_in_bytes + results
    return arrays + stats.generated_code_size_in_bytes


def needed_memory(message: str) -> int:
    """Bytes that the compiler says a program takes, from its refusal; 0 where it does not say."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of|required[^(]*\(([\d.]+)([KMGT])\)", message)
    if not found:
        return 0
    number, unit = (part for part in found.groups() if part)
    return int(float(number) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[unit])
