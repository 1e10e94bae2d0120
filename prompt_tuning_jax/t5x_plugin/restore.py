"""The base checkpoint of a run, and what it lacks: what is tuned and the optimizer's state.

T5X restores a checkpoint without a prompt only with a fallback for what is missing. Its own makes
the whole model from random numbers first, and keeps them, with a line in the log, wherever the
checkpoint has no weight. Here only what a base checkpoint cannot have is made, and a missing or
misshapen weight is an error.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax.core import unfreeze
from jax.sharding import Mesh
from jaxtyping import Array
from t5x import state_utils, utils

from prompt_tuning_jax.checkpoints.t5x.checkpoint import STEP, TARGET, open_checkpoint
from prompt_tuning_jax.params import unflatten
from prompt_tuning_jax.t5x_plugin.leaves import is_tuned
from prompt_tuning_jax.t5x_plugin.run import absolute

Flat = dict[str, Any]
Starts = Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, np.ndarray]]
"""The shapes of all parameters, by their flat names -> first values of some that are tuned."""


def base_checkpoint(path: str) -> utils.RestoreCheckpointConfig:
    """How T5X restores the weights and the step of a checkpoint; a prompt in it is made anew.

    Weights keep the dtype they were saved in.

    Args:
      path: `.../checkpoint_N`, of today's format or T5X's old one, local or remote.

    Raises:
      ValueError: (when restoring) the checkpoint lacks a weight or has one of another shape.
    """

    def take(checkpoint: Mapping[str, Any], state: Mapping[str, Any], is_resuming=False) -> Any:
        if is_resuming:  # from the run's own checkpoint, which has everything
            return checkpoint
        wanted = {name: x.shape for name, x in flatten(state).items() if comes_from_base(name)}
        _check(path, {name: tuple(shape) for name, shape in wanted.items()})
        found = flatten(checkpoint)
        return unflatten({name: found[name] for name in wanted})

    return utils.RestoreCheckpointConfig(
        path=absolute(path),
        mode="specific",
        dtype=None,
        fallback_to_scratch=True,
        state_transformation_fns=(take,),
    )


def comes_from_base(name: str) -> bool:
    """Whether a leaf of T5X's state, by its flat name, is taken from the base checkpoint."""
    return name == STEP or (name.startswith(TARGET) and not is_tuned(name.removeprefix(TARGET)))


def _check(path: str, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Every leaf that a state takes from a checkpoint is there, and has the right shape."""
    opened = open_checkpoint(path)
    found = {TARGET + name: leaf.shape for name, leaf in opened.leaves(TARGET).items()}
    found |= {STEP: ()} if STEP in opened.sources else {}
    faults = [f"{name} is missing" for name in wanted if name not in found]
    faults += [
        f"{name} is {list(found[name])} and not {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if faults:
        raise ValueError(
            f"{path} does not fit this model, in {len(faults)} of {len(wanted)} leaves: "
            f"{'; '.join(faults[:4])}{'; ...' if faults[4:] else ''}. Use the models/ file of its "
            "size, or another checkpoint."
        )


def _check_divides(shapes: Flat, axes: Flat, mesh: Mesh) -> None:
    """Every leaf can be split over the devices as the rules say."""
    for name, spec in axes.items():
        for size, axis in zip(shapes[name].shape, spec or (), strict=False):
            parts = mesh.shape[axis] if axis else 1
            if size % parts:
                raise ValueError(
                    f"{name} {list(shapes[name].shape)} cannot be split in {parts} at its {size}: "
                    "choose a MODEL_PARALLELISM that divides the model's heads and widths, such as "
                    "1, with which the devices share batches instead."
                )


class TrainStateInitializer(utils.TrainStateInitializer):
    """Makes what a base checkpoint lacks; `start` gives it its first values.

    What is tuned and its optimizer's state are all that is computed: everything else in the state
    that `from_scratch` returns is a shape, which restoring replaces by the checkpoint's arrays.
    """

    def __init__(
        self,
        *args: Any,
        input_shapes: Mapping[str, tuple[int, ...]],
        input_types: Mapping[str, Any] | None = None,
        start: Starts | None = None,
        **kwargs: Any,
    ):
        # t5x.eval leaves the types out, and T5X then takes tokens for floating-point numbers.
        if input_types is None:
            input_types = dict.fromkeys(input_shapes, np.int32)
        super().__init__(*args, input_shapes=input_shapes, input_types=input_types, **kwargs)
        self._start = start
        shapes = flatten(self.global_train_state_shape.state_dict())
        _check_divides(shapes, flatten(self.train_state_axes.state_dict()), self._partitioner.mesh)

    def from_scratch(self, init_rng: Array) -> Any:
        state = self.global_train_state_shape
        flat = flatten(state.state_dict())
        axes = flatten(self.train_state_axes.state_dict())
        made = [name for name in flat if not comes_from_base(name)]

        def make(rng: Array) -> Flat:
            whole = flatten(self._initialize_train_state(rng).state_dict())
            return {name: whole[name] for name in made}

        values = self._partitioner.partition(
            make, in_axis_resources=None, out_axis_resources={name: axes[name] for name in made}
        )(init_rng)
        if self._start is not None:
            target = {
                name.removeprefix(TARGET): x for name, x in flat.items() if name.startswith(TARGET)
            }
            for name, first in self._start({name: x.shape for name, x in target.items()}).items():
                values[TARGET + name] = jax.make_array_from_callback(
                    first.shape,
                    values[TARGET + name].sharding,
                    lambda index, first=first: first[index],
                )
        return state.restore_state(unflatten(flat | values))


def flatten(state: Mapping[str, Any]) -> Flat:
    """T5X's state as {"target/...": leaf, "state/...": leaf}; old checkpoints' specs are leaves."""
    return state_utils.flatten_state_dict(unfreeze(state))
