"""The meshes and rematerialisation policies worth trying, likeliest first.

Which those are is arithmetic, rough on purpose: it only has to save most of the compilations.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable

from jax.sharding import Mesh

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.models.family import NetworkConfig, family_of
from prompt_tuning_jax.models.t5.config import REMAT_POLICIES
from prompt_tuning_jax.planning.arithmetic import Work, peak_memory, work_of
from prompt_tuning_jax.planning.hardware import Accelerator
from prompt_tuning_jax.planning.step import Lengths, abstract_params, held, traced_step

# Of a device's peak, what a step may be expected to reach.
_LIKELY_SHARE = 0.4


@dataclasses.dataclass(frozen=True)
class Option:
    """A way to run a step: sizes of the mesh's axes, and what the backward pass recomputes."""

    data: int = 1
    fsdp: int = 1
    model: int = 1
    remat: str = "none"

    @property
    def mesh(self) -> str:
        """As `sharding.make_mesh` takes it."""
        sizes = {"data": self.data, "fsdp": self.fsdp, "model": self.model}
        return ",".join(f"{k}:{v}" for k, v in sizes.items() if v > 1) or "data:1"


@dataclasses.dataclass(frozen=True)
class Guess:
    """What an option may take on each device: bytes, and seconds a step."""

    memory: float
    seconds: float


@functools.lru_cache
def traced_work(config: NetworkConfig, lengths: Lengths) -> tuple[Work, int]:
    """The whole step's matrix products, and the most bytes it has alive, on one device."""
    jaxpr = traced_step(config, lengths).jaxpr.jaxpr
    return work_of(jaxpr), peak_memory(jaxpr)


def heads_of(config: NetworkConfig) -> int:
    """Heads that are split over devices: those of keys and values, where they are fewer."""
    return getattr(config, "num_kv_heads", config.num_heads)


def layers_of(config: NetworkConfig, lengths: Lengths) -> int:
    """Layers of all stacks."""
    names = abstract_params(dataclasses.replace(config, scan_layers=False), lengths)
    return len({found[0] for name in names if (found := re.match(r".*?layers_\d+/", name))})


def meshes(devices: int, batch: int, heads: int) -> list[Option]:
    """All splits of `devices` over which rows and heads divide evenly.

    Raises:
      ValueError: there is none.
    """
    found = [
        Option(devices // (fsdp * model), fsdp, model)
        for model in _divisors(devices)
        for fsdp in _divisors(devices // model)
        if heads % model == 0 and batch % (devices // model) == 0
    ]
    if not found:
        raise ValueError(
            f"{spelled('batch_size')} {batch} divides over no mesh of {devices} devices: rows are "
            f"split over data and fsdp, and {heads} heads over model."
        )
    return found


def only_mesh(mesh: Mesh, batch: int) -> Option:
    """One mesh as an option.

    Raises:
      ValueError: rows do not divide over it.
    """
    if batch % (parts := sharding.batch_parts(mesh)):
        raise ValueError(
            f"{spelled('batch_size')} {batch} does not divide over the {parts} devices that "
            f"{spelled('mesh')} gives to data "
            "and fsdp."
        )
    return Option(*(mesh.shape[axis] for axis in sharding.MESH_AXES))


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def likeliest(
    config: NetworkConfig,
    lengths: Lengths,
    chip: Accelerator,
    splits: Iterable[Option],
    policies: Iterable[str] = REMAT_POLICIES,
) -> list[Option]:
    """Every split with every policy, those guessed to fit and to be fast first."""
    options = [dataclasses.replace(one, remat=policy) for one in splits for policy in policies]
    guesses = {option: guess(config, lengths, chip, option) for option in options}

    def order(option: Option) -> tuple[bool, float]:
        too_large = guesses[option].memory > chip.usable
        return too_large, guesses[option].memory if too_large else guesses[option].seconds

    return sorted(options, key=order)


def guess(config: NetworkConfig, lengths: Lengths, chip: Accelerator, option: Option) -> Guess:
    """Memory and time, with activations split evenly and no communication behind work."""
    work, alive = traced_work(dataclasses.replace(config, remat_policy=option.remat), lengths)
    kept, rows = held(config, lengths), option.data * option.fsdp
    weights = (kept.weights + kept.masters) / option.model
    memory = (weights + kept.state / option.model) / option.fsdp + alive / (rows * option.model)
    # Gradients are not split over data: each device has those of its rows, and sums go round twice.
    gradients = kept.masters / option.model
    memory += gradients * (1 / option.fsdp - 1 / rows)
    moved = 2 * gradients if rows > 1 else 0.0
    if option.fsdp > 1:
        # The layer at work, and the next one on its way.
        memory += 2 * weights / layers_of(config, lengths)
        moved += 2 * weights
    if option.model > 1:
        passes = 3 if option.remat == "full" else 2
        states = lengths.batch / rows * lengths.row(config) * config.emb_dim
        depth = family_of(config).depth(config)
        moved += passes * 2 * depth * 2 * states * config.dtype.itemsize
    computing = work.flops / (rows * option.model * chip.flops * _LIKELY_SHARE)
    return Guess(memory, computing + (moved / chip.ring if moved else 0.0))
