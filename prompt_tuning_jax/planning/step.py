"""The training step that `train` runs, traced or compiled without a weight or a device.

It is the library's own step (`training.compiled_step`), of a prompt or another method, with the
optimizer's state. Where layers are scanned, a deep model compiles like a shallow one.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from prompt_tuning_jax.checkpoints.quantize import quantized_shapes
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.family import NetworkConfig, family_of
from prompt_tuning_jax.optim import Rule
from prompt_tuning_jax.params import flatten, unflatten
from prompt_tuning_jax.settings.parts.method import check_method
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.adapters.start import check_model
from prompt_tuning_jax.training.checks import check_weights_train
from prompt_tuning_jax.training.compiled_step import (
    Shapes,
    compile_if_it_fits,
    step_and_shapes,
)


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Sizes of a step: rows on all devices; tokens of an input, a target and the prompt.

    Attributes:
      int8: whether the frozen weights are, instead of having the activations' dtype.
      method: other settings of `train`, as (name, value) pairs: what trains, and how.
    """

    batch: int = 32
    inputs: int = 512
    targets: int = 8
    prompt: int = 100
    int8: bool = False
    # The paper's recipe for a prompt; what is averaged by default is but that.
    method: tuple[tuple[str, Any], ...] = (("dropout_rate", 0.1), ("average_decay", 0.0))

    @functools.cached_property
    def settings(self) -> TrainConfig:
        """Those of a run with such a step, as `train` takes them."""
        return TrainConfig(
            prompt_length=self.prompt,
            batch_size=self.batch,
            feature_lengths={"inputs": self.inputs, "targets": self.targets},
            **dict(self.method),
        )

    def row(self, config: NetworkConfig) -> int:
        """Positions of a row in the stack that the prompt goes into."""
        rows = self.inputs + self.settings.input_rows
        return rows + (self.targets if config.continues_inputs else 0)


@dataclasses.dataclass(frozen=True)
class Held:
    """What a run holds of the model on each device between its steps, in bytes.

    Attributes:
      weights: of the frozen model.
      masters: of what trains, in float32.
      state: of the optimizer.
    """

    weights: int
    masters: int
    state: int


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device while a compiled step runs.

    Attributes:
      weights: of its arguments, the frozen model.
      arguments: the others: what trains, its optimizer state and the batch.
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
    """The flat shapes of the model's weights, as they are stored."""
    family = family_of(config)
    layers_apart = dataclasses.replace(config, scan_layers=False)
    flat = flatten(family.abstract_variables(layers_apart, None)["params"])
    shapes = {name: jax.ShapeDtypeStruct(x.shape, config.dtype) for name, x in flat.items()}
    if lengths.int8:
        shapes = quantized_shapes(shapes)
    if not config.scan_layers:
        return shapes
    return flatten(jax.eval_shape(lambda x: family.scanned(config, x)[1], unflatten(shapes)))


def weight_sizes(config: NetworkConfig, lengths: Lengths) -> dict[str, int]:
    """How many numbers each weight of the model has, however they are stored."""
    params = abstract_params(config, dataclasses.replace(lengths, int8=False))
    return {name: x.size for name, x in params.items()}


def abstract_step(
    config: NetworkConfig,
    lengths: Lengths,
    mesh: Mesh | None = None,
    rules: Sequence[Rule] | None = None,
) -> tuple[Any, Shapes]:
    """The jitted step that `train` would run, and its arguments' shapes: `step_and_shapes`."""
    asked = dataclasses.replace(
        lengths.settings, prompt_visibility=config.prompt_visibility, trainable=rules
    )
    return step_and_shapes(asked, _model(config, lengths, mesh), mesh)


def _model(config: NetworkConfig, lengths: Lengths, mesh: Mesh | None = None) -> FrozenModel:
    params = unflatten(dict(abstract_params(config, lengths)))
    # A mesh of one device asks for no constraints within the program, as in training.
    return FrozenModel(config, params, mesh=mesh if mesh is not None and mesh.size > 1 else None)


def check_step(config: NetworkConfig, lengths: Lengths) -> None:
    """ValueError, in training's words, where `train` would not run a step."""
    check_method(lengths.settings)
    model = _model(config, lengths)
    if lengths.settings.adapter is not None:
        check_model(lengths.settings, model)
    stored = flatten(model.params)
    trainable = {name: stored.get(name) for name in trained_sizes(config, lengths)}
    check_weights_train(model, trainable, stored)


@functools.lru_cache
def trained_sizes(config: NetworkConfig, lengths: Lengths) -> dict[str, int]:
    """How many numbers each parameter has that trains."""
    trainable, *_ = abstract_step(config, lengths)[1]
    return {name: x.size for name, x in trainable.items()}


@functools.lru_cache
def held(config: NetworkConfig, lengths: Lengths, mesh: Mesh | None = None) -> Held:
    """Without the padding of a device's tiles; on one device where there is no mesh."""
    trainable, state, frozen, *_ = abstract_step(config, lengths, mesh)[1]
    return Held(*map(_bytes_on_device, (frozen, trainable, state)))


def _bytes_on_device(shapes: Any) -> int:
    def size(x: jax.ShapeDtypeStruct) -> int:
        shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
        return math.prod(shape) * x.dtype.itemsize

    return sum(map(size, jax.tree.leaves(shapes)))


def traced_step(
    config: NetworkConfig,
    lengths: Lengths,
    mesh: Mesh | None = None,
    rules: Sequence[Rule] | None = None,
) -> Any:
    """The traced training step: `.jaxpr`, and `.lower().compile()`.

    Args:
      mesh: where arguments are, by the library's own partition rules; None for one device.
      rules: which parameters train; None for those of the method.
    """
    step, shapes = abstract_step(config, lengths, mesh, rules)
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
    weights = held(config, lengths, mesh).weights
    return Memory(
        weights=weights,
        arguments=stats.argument_size_in_bytes - weights,
        temporaries=stats.temp_size_in_bytes,
        outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        program=stats.generated_code_size_in_bytes,
    )
