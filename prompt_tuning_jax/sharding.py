"""The mesh, and every partition rule, in one visible table.

`MESH = "data:4,model:2"` names the mesh axes and their sizes; one size may be -1 for the rest of
the devices. Batches are split over `data`. Frozen weights are split over `model` by the table
below (tensor parallelism); prompts and their optimizer state are replicated.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prompt_tuning_jax.t5 import T5Config, Transformer

# Logical axis (T5X's names, and the prompt's) -> mesh axis, None = replicated.
AXIS_RULES: dict[str, str | None] = {
    "batch": "data",
    "vocab": "model",
    "heads": "model",
    "kv": None,
    "joined_kv": "model",
    "mlp": "model",
    "layers": None,
    "embed": None,
    "relpos_buckets": None,
    "prompt_bank": None,
    "prompt": None,
}
MESH_AXES = ("data", "model")


def make_mesh(spec: str = "data:-1") -> Mesh:
    """A mesh over all devices of all hosts, with axes `data` and `model`.

    Raises:
      ValueError: an unknown axis, a malformed size, or sizes that do not multiply to the number
        of devices.
    """
    sizes = dict.fromkeys(MESH_AXES, 1)
    for part in spec.split(","):
        name, _, size = part.strip().partition(":")
        if name not in sizes or not re.fullmatch(r"-1|[1-9]\d*", size):
            raise ValueError(
                f"MESH {spec!r}: {part!r} is not AXIS:SIZE with AXIS one of {', '.join(MESH_AXES)}."
            )
        sizes[name] = int(size)
    devices = jax.devices()
    fixed = math.prod(size for size in sizes.values() if size != -1)
    sizes = {k: len(devices) // fixed if v == -1 else v for k, v in sizes.items()}
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"MESH {spec!r} asks for {math.prod(sizes.values())} devices, but there are "
            f"{len(devices)}; give one axis the size -1 to take the rest."
        )
    return Mesh(np.array(devices).reshape(*sizes.values()), MESH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def logical_axes(config: T5Config) -> dict[str, tuple[str, ...]]:
    """Parameter name -> its logical axes, read from the network itself."""
    tokens = jax.ShapeDtypeStruct((1, 2), np.int32)
    shapes = jax.eval_shape(
        lambda t: Transformer(config).init(jax.random.key(0), t, t, t, enable_dropout=False), tokens
    )
    flat = traverse_util.flatten_dict(shapes["params_axes"], sep="/")
    return {name.removesuffix("_axes"): tuple(meta.names) for name, meta in flat.items()}


def param_shardings(mesh: Mesh, config: T5Config, flat: Mapping[str, Any]) -> dict[str, Any]:
    """A sharding for every flat parameter: the table's, replicated where it names none."""
    axes = logical_axes(config)

    def sharding(name: str, x: Any) -> NamedSharding:
        spec = [AXIS_RULES[axis] for axis in axes.get(name, ())]
        fits = all(
            size % mesh.shape[axis] == 0
            for size, axis in zip(x.shape, spec, strict=False)
            if axis is not None
        )
        return NamedSharding(mesh, PartitionSpec(*spec)) if fits else replicated(mesh)

    return {name: sharding(name, x) for name, x in flat.items()}
