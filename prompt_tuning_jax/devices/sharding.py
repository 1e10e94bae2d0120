"""The mesh, and every partition rule, in one visible table.

`data:4,fsdp:2,model:2` names the mesh axes and their sizes; those left out have size 1,
and one may be -1 for the rest of the devices.

    data    splits the batch; every device of it holds all weights
    fsdp    splits the batch too, and the weights: each is gathered where a layer uses it, and not
            kept for the backward pass if layers are rematerialised (`T5Config`)
    model   splits the computation within a layer, and its weights with it (tensor parallelism)

Prompts and their optimizer state are on every device. With several hosts the mesh spans all their
devices, and arrays are global: `put` makes one from the same values on every host, each of which
keeps its own part; `to_host` gives every host the whole of an array, and all hosts call it.
"""

import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.linen import partitioning
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.models.embedding.encoders import ENCODERS
from prompt_tuning_jax.models.family import NetworkConfig, family_of
from prompt_tuning_jax.params import flatten

MESH_AXES = ("data", "fsdp", "model")
# Logical axis (T5X's names, and the prompt's) -> mesh axes, None = not split.
AXIS_RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "vocab": "model",
    "heads": "model",
    "kv": None,
    "joined_kv": "model",
    "mlp": "model",
    "layers": None,
    "embed": "fsdp",
    "relpos_buckets": None,
    "positions": None,
    "prompt_bank": None,
    "prompt": None,
}
# For a checkpoint's reader: (config, name -> weight or its shape) -> name -> sharding.
Shardings = Callable[[NetworkConfig, Mapping[str, Any]], Mapping[str, Sharding]]
# What it may do to each weight as soon as that is read: (name, weight) -> name -> array.
Conversion = Callable[[str, Any], Mapping[str, Any]]
# fsdp says where weights are kept; the arrays within a layer are not split over it.
RULES_IN_USE = AXIS_RULES | {"embed": None}


def make_mesh(spec: str = "data:-1", devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes `data`, `fsdp` and `model`, over all devices of all hosts.

    Args:
      devices: those of the mesh, where it is not for the devices that are here.

    Raises:
      ValueError: an unknown axis, a malformed size, or sizes that do not multiply to the number
        of devices.
    """
    sizes = dict.fromkeys(MESH_AXES, 1)
    for part in spec.split(","):
        name, _, size = part.strip().partition(":")
        if name not in sizes or not re.fullmatch(r"-1|[1-9]\d*", size):
            raise ValueError(
                f"{spelled('mesh')} {spec!r}: {part!r} is not AXIS:SIZE with AXIS one of "
                f"{', '.join(MESH_AXES)}."
            )
        sizes[name] = int(size)
    devices = jax.devices() if devices is None else devices
    fixed = math.prod(size for size in sizes.values() if size != -1)
    rest = max(1, len(devices) // fixed)
    sizes = {k: rest if v == -1 else v for k, v in sizes.items()}
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"{spelled('mesh')} {spec!r} asks for {math.prod(sizes.values())} devices, but there "
            "are "
            f"{len(devices)}; give one axis the size -1 to take the rest."
        )
    return Mesh(_grid(tuple(sizes.values()), devices), MESH_AXES)


def _grid(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices as a mesh's grid.

    The last axis, which communicates most, gets the devices that are nearest to each other; between
    slices, which only the data-centre network joins, the first axes are split, as far as they go.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    between = []
    for size in shape:
        between.append(math.gcd(size, slices))
        slices //= between[-1]
    if slices > 1:
        raise ValueError(
            f"A mesh of {' x '.join(map(str, shape))} does not divide over the slices of these "
            "devices: give an axis, best data, a size that the number of slices divides."
        )
    within = tuple(size // count for size, count in zip(shape, between, strict=True))
    if math.prod(between) == 1:
        return mesh_utils.create_device_mesh(within, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        within, between, devices, allow_split_physical_axes=True
    )


@contextlib.contextmanager
def active(mesh: Mesh | None, split_rows: bool = True) -> Iterator[None]:
    """While inside, the network's constraints on logical axes apply to `mesh`.

    Args:
      split_rows: whether those on a batch's rows do.
    """
    if mesh is None:
        yield
        return
    rules = tuple((RULES_IN_USE | ({} if split_rows else {"batch": None})).items())
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), partitioning.axis_rules(rules):
        yield


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Rows, which are an array's `axis`, over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS_RULES["batch"]))


def batch_parts(mesh: Mesh) -> int:
    """The number of parts that a batch's rows are split into."""
    return math.prod(mesh.shape[axis] for axis in AXIS_RULES["batch"])


def batch_parts_of(mesh: Mesh | None) -> int:
    """The same; 1 without a mesh."""
    return 1 if mesh is None else batch_parts(mesh)


def own_rows(mesh: Mesh, rows: int) -> set[int]:
    """Which of a batch's rows are on this host's devices."""
    parts = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return {row for (part,) in parts for row in range(rows)[part]}


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


@functools.lru_cache
def logical_axes(config: NetworkConfig) -> Mapping[str, tuple[str, ...]]:
    """Parameter name -> its logical axes, read from the network itself."""
    config = getattr(config, "network", config)  # that of an embedding model
    network = ENCODERS.get(type(config)) or family_of(config)
    flat = flatten(network.abstract_variables(config, None)["params_axes"])
    return {name.removesuffix("_axes"): tuple(meta.names) for name, meta in flat.items()}


def param_shardings(mesh: Mesh, config: NetworkConfig, tree: Any) -> Any:
    """A sharding for every leaf of flat parameters, or of an optimizer's state over them.

    A leaf belongs to the parameter that it is named for, and is split by the table as far as its
    sizes divide. What has no name there, or another rank, is replicated.
    """
    axes = logical_axes(config)

    def sharding(path: tuple[Any, ...], x: Any) -> NamedSharding:
        names = axes.get(getattr(path[-1], "key", None), ())
        if len(names) != len(x.shape):
            return replicated(mesh)
        rules = [AXIS_RULES[name] for name in names]
        spec = [
            rule if rule and size % mesh.shape[rule] == 0 else None
            for rule, size in zip(rules, x.shape, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def constrain(mesh: Mesh | None, config: NetworkConfig, tree: Any) -> Any:
    """Within a compiled function: `tree` where `param_shardings` says; as it is without a mesh."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, param_shardings(mesh, config, tree))


def put(tree: Any, shardings: Any) -> Any:
    """Arrays whose values every host knows, where `shardings` says; each host keeps its own part.

    Args:
      shardings: one for all leaves, or a tree of them.
    """
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(_put, tree, shardings)


def _put(x: Any, sharding: Sharding) -> jax.Array:
    is_global = isinstance(x, jax.Array) and not x.is_fully_addressable
    if is_global or sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)


def to_host(tree: Any) -> Any:
    """The values on every host, as numpy arrays, of arrays that are split over all hosts."""

    def whole(x: Any) -> Any:
        here = not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
        return x if here else jax.device_put(x, replicated(x.sharding.mesh))

    return jax.device_get(jax.tree.map(whole, tree))
