"""The training step that `train` runs, traced or compiled without a weight or a device.

It is `train_step.make_train_step` itself: a frozen model in bfloat16, a float32 prompt, the paper's
optimizer and dropout. Layers are scanned, so that a deep model compiles like a shallow one.
"""

import contextlib
import dataclasses
import functools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from prompt_tuning_jax import optim
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.family import family_of
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.params import PROMPT_NAME, flatten, split_params, unflatten, without_prompt
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.train_step import make_train_step


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Sizes of a step: rows on all devices; tokens of an input, a target and the prompt."""

    batch: int = 32
    inputs: int = 512
    targets: int = 8
    prompt: int = 100


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device while a compiled step runs.

    Attributes:
      weights: of its arguments, the frozen model.
      arguments: the others: the prompt, its optimizer state and the batch.
      temporaries: what the step computes and keeps for a while; activations, mostly.
      outputs: what it returns in memory of its own, not in that of a donated argument.
      program: the instructions.
    """

    weights: int
    arguments: int
    temporaries: int
    outputs: int
    program: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of a step.

    Attributes:
      text: the program; empty where it did not fit.
      memory: None where it did not fit.
      needed: bytes on each device.
      seconds: how long it took to compile.
    """

    text: str
    memory: Memory | None
    needed: int
    seconds: float


@functools.lru_cache
def abstract_params(config: T5Config, lengths: Lengths) -> Mapping[str, Any]:
    """The flat parameters' shapes: the frozen model in the activations' dtype, a float32 prompt."""
    prompt_shape = lengths.prompt, config.emb_dim
    flat = flatten(family_of(config).abstract_variables(config, prompt_shape)["params"])
    return {
        name: jax.ShapeDtypeStruct(x.shape, jnp.float32 if name == PROMPT_NAME else config.dtype)
        for name, x in flat.items()
    }


def traced_step(
    config: T5Config,
    lengths: Lengths,
    mesh: Mesh | None = None,
    rules: Sequence[optim.Rule] | None = None,
) -> Any:
    """The traced training step: `.jaxpr`, and `.lower().compile()`.

    Args:
      mesh: where arguments are, by the library's own partition rules; None for one device.
      rules: which parameters train; None for the prompt, by the paper's optimizer.
    """
    params = abstract_params(config, lengths)
    rules = optim.prompt_rules() if rules is None else rules
    trainable, frozen = split_params(unflatten(params), rules)
    optimizer = optim.make_optimizer(trainable, rules)
    opt_state = jax.eval_shape(optimizer.init, trainable)
    batch, key = _batch(lengths), jax.eval_shape(lambda: jax.random.key(0))
    if mesh is not None:
        places = [sharding.param_shardings(mesh, config, x) for x in (trainable, opt_state, frozen)]
        trainable, opt_state, frozen = map(_placed, (trainable, opt_state, frozen), places)
        batch = _placed(batch, {name: sharding.batch_sharding(mesh) for name in batch})
        key = _placed(key, sharding.replicated(mesh))
    # A mesh of one device asks for no constraints within the program, as in training.
    model = FrozenModel(config, {}, mesh=mesh if mesh is not None and mesh.size > 1 else None)
    asked = TrainConfig(prompt_visibility=config.prompt_visibility)
    step = make_train_step(asked, model, optimizer)
    with _meant_for(mesh):
        return step.trace(trainable, opt_state, frozen, batch, key)


def _meant_for(mesh: Mesh | None) -> contextlib.AbstractContextManager[None]:
    """Where a kernel asks which devices it is for; those of the plan are not here."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def _batch(lengths: Lengths) -> dict[str, jax.ShapeDtypeStruct]:
    targets = (lengths.batch, lengths.targets)
    return {
        "encoder_input_tokens": jax.ShapeDtypeStruct((lengths.batch, lengths.inputs), np.int32),
        "decoder_input_tokens": jax.ShapeDtypeStruct(targets, np.int32),
        "decoder_target_tokens": jax.ShapeDtypeStruct(targets, np.int32),
        "decoder_loss_weights": jax.ShapeDtypeStruct(targets, np.float32),
    }


def _placed(tree: Any, shardings: Any) -> Any:
    def place(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(place, tree, shardings)


def compile_step(config: T5Config, lengths: Lengths, mesh: Mesh) -> Compiled:
    """Compiles the step for `mesh`'s devices; that a step does not fit them is a result too."""
    traced = traced_step(config, lengths, mesh)
    start = time.perf_counter()
    try:
        with _no_cache(), _meant_for(mesh):
            compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Compiled("", None, needed_memory(str(error)), time.perf_counter() - start)
    seconds = time.perf_counter() - start
    memory = _memory(compiled.memory_analysis(), config, lengths, mesh)
    return Compiled(compiled.as_text(), memory, memory.total, seconds)


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """What is compiled for devices that are not here cannot be read back from a cache."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _memory(stats: Any, config: T5Config, lengths: Lengths, mesh: Mesh) -> Memory:
    weights = weights_per_device(config, lengths, mesh)
    return Memory(
        weights=weights,
        arguments=stats.argument_size_in_bytes - weights,
        temporaries=stats.temp_size_in_bytes,
        outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        program=stats.generated_code_size_in_bytes,
    )


def weights_per_device(config: T5Config, lengths: Lengths, mesh: Mesh) -> int:
    """Bytes of the frozen model that each device holds, without the padding of its tiles."""
    params = without_prompt(abstract_params(config, lengths))
    places = sharding.param_shardings(mesh, config, params)
    return sum(
        int(np.prod(places[name].shard_shape(x.shape))) * x.dtype.itemsize
        for name, x in params.items()
    )


def needed_memory(message: str) -> int:
    """Bytes that the compiler says a program takes, from its refusal; 0 where it does not say."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of|required[^(]*\(([\d.]+)([KMGT])\)", message)
    if not found:
        return 0
    number, unit = (part for part in found.groups() if part)
    return int(float(number) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[unit])
