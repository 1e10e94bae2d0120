"""How a T5X run is split over devices: the mesh, and the prompt's logical axes."""

import functools

import jax
from jax.sharding import Mesh
from t5x import partitioning

from prompt_tuning_jax.devices import sharding


class Partitioner(partitioning.PjitPartitioner):
    """T5X's, with a mesh for the devices that T5X has none for.

    On CPU devices T5X splits the model over all of them, whatever `num_partitions` says, and on
    newer TPUs it asks for a submesh. Here `num_partitions` counts on every machine.
    """

    @functools.cached_property
    def mesh(self) -> Mesh:
        asked = self._num_partitions
        if asked is None or self._ici_mesh_shape is not None:
            return super().mesh
        if jax.default_backend() != "cpu":
            try:
                return super().mesh
            except ValueError:  # no default for this kind of device
                pass
        return split_over(asked)


def split_over(num_partitions: int) -> Mesh:
    """A mesh of all devices that splits the model over `num_partitions` of them, batches over rest.

    Raises:
      ValueError: the devices are no multiple of `num_partitions`.
    """
    count = jax.device_count()
    if count % num_partitions:
        raise ValueError(
            f"MODEL_PARALLELISM={num_partitions} does not divide the {count} devices here."
        )
    mesh = sharding.make_mesh(f"data:-1,model:{num_partitions}")
    return Mesh(mesh.devices.squeeze(mesh.axis_names.index("fsdp")), ("data", "model"))


def additional_rules() -> list[tuple[str, str | None]]:
    """Those of this library's rules that T5X's standard ones lack; all others are T5X's."""
    standard = {axis for axis, _ in partitioning.standard_logical_axis_rules()}
    rules = sharding.AXIS_RULES.items()
    return [(axis, mesh) for axis, mesh in rules if axis not in standard]
