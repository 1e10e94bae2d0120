"""The training step that `train` runs, traced or compiled without a weight or a device.

It is the library's own step (`training.compiled_step`): a frozen model, a float32 prompt, the
paper's optimizer and dropout. Layers are scanned, so that a deep model compiles like a shallow one.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from prompt_tuning_jax.checkpoints.quantize import quantized_shapes
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.family import NetworkConfig, family_of
from prompt_tuning_jax.optim import Rule
from prompt_tuning_jax.params import PROMPT_NAME, flatten, unflatten, without_prompt
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.compiled_step import compile_if_it_fits, step_and_shapes


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Sizes of a step: rows on all devices; tokens of an input, a target and the prompt.

    Attributes:
      int8: whether the frozen weights are, instead of having the activations' dtype.
    """

    batch: int = 32
    inputs: int = 512
    targets: int = 8
    prompt: int = 100
    int8: bool = False

    def row(self, config: NetworkConfig) -> int:
        """Positions of a row in the stack that the prompt goes into."""
        return self.inputs + self.prompt + (self.targets if config.continues_inputs else 0)


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
def abstract_params(config: NetworkConfig, lengths: Lengths) -> Mapping[str, Any]:
    """The flat parameters' shapes: the frozen model as it is stored, a float32 prompt."""
    family, prompt_shape = family_of(config), (lengths.prompt, config.emb_dim)
    layers_apart = dataclasses.replace(config, scan_layers=False)
    flat = flatten(family.abstract_variables(layers_apart, prompt_shape)["params"])
    shapes = {
        name: jax.ShapeDtypeStruct(x.shape, jnp.float32 if name == PROMPT_NAME else config.dtype)
        for name, x in flat.items()
    }
    if lengths.int8:
        shapes = quantized_shapes(shapes)
    if not config.scan_layers:
        return shapes
    return flatten(jax.eval_shape(lambda x: family.scanned(config, x)[1], unflatten(shapes)))


def weight_sizes(config: NetworkConfig, lengths: Lengths) -> dict[str, int]:
    """How many numbers each weight of the frozen model has, however they are stored."""
    params = without_prompt(abstract_params(config, dataclasses.replace(lengths, int8=False)))
    return {name: x.size for name, x in params.items()}


def traced_step(
    config: NetworkConfig,
    lengths: Lengths,
    mesh: Mesh | None = None,
    rules: Sequence[Rule] | None = None,
) -> Any:
    """The traced training step: `.jaxpr`, and `.lower().compile()`.

    Args:
      mesh: where arguments are, by the library's own partition rules; None for one device.
      rules: which parameters train; None for the prompt, by the paper's optimizer.
    """
    params = unflatten(without_prompt(dict(abstract_params(config, lengths))))
    # A mesh of one device asks for no constraints within the program, as in training.
    model = FrozenModel(config, params, mesh=mesh if mesh is not None and mesh.size > 1 else None)
    asked = TrainConfig(
        prompt_length=lengths.prompt,
        prompt_visibility=config.prompt_visibility,
        batch_size=lengths.batch,
        feature_lengths={"inputs": lengths.inputs, "targets": lengths.targets},
        trainable=rules,
        dropout_rate=0.1,  # the paper's recipe; what is averaged by default is but a prompt
        average_decay=0.0,
    )
    step, shapes = step_and_shapes(asked, model, mesh)
    with _meant_for(mesh):
        return step.trace(*shapes)


def _meant_for(mesh: Mesh | None) -> contextlib.AbstractContextManager[None]:
    """Where a kernel asks which devices it is for; those of the plan are not here."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def compile_step(config: NetworkConfig, lengths: Lengths, mesh: Mesh) -> Compiled:
    """Compiles the step for `mesh`'s devices; that a step does not fit them is a result too."""
    traced = traced_step(config, lengths, mesh)
    start = time.perf_counter()
    with _no_cache(), _meant_for(mesh):
        compiled, needed = compile_if_it_fits(traced.lower())
    seconds = time.perf_counter() - start
    if compiled is None:
        return Compiled("", None, needed, seconds)
    memory = _memory(compiled.memory_analysis(), config, lengths, mesh)
    return Compiled(compiled.as_text(), memory, needed, seconds)


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """What is compiled for devices that are not here cannot be read back from a cache."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _memory(stats: Any, config: NetworkConfig, lengths: Lengths, mesh: Mesh) -> Memory:
    weights = weights_per_device(config, lengths, mesh)
    return Memory(
        weights=weights,
        arguments=stats.argument_size_in_bytes - weights,
        temporaries=stats.temp_size_in_bytes,
        outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        program=stats.generated_code_size_in_bytes,
    )


def weights_per_device(config: NetworkConfig, lengths: Lengths, mesh: Mesh) -> int:
    """Bytes of the frozen model that each device holds, without the padding of its tiles."""
    params = without_prompt(abstract_params(config, lengths))
    places = sharding.param_shardings(mesh, config, params)
    return sum(
        int(np.prod(places[name].shard_shape(x.shape))) * x.dtype.itemsize
        for name, x in params.items()
    )
