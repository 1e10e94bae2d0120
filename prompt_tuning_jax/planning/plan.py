"""A plan: what one option needs on one target, in numbers that say where they come from."""

import dataclasses
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.family import NetworkConfig
from prompt_tuning_jax.models.t5.config import REMAT_POLICIES
from prompt_tuning_jax.planning import gpus, meshes
from prompt_tuning_jax.planning.arithmetic import useful_flops
from prompt_tuning_jax.planning.hardware import Accelerator, Slice
from prompt_tuning_jax.planning.hlo import Collective, Program
from prompt_tuning_jax.planning.meshes import Option, traced_work
from prompt_tuning_jax.planning.schedule import schedule
from prompt_tuning_jax.planning.step import (
    Compiled,
    Held,
    Lengths,
    check_step,
    compile_step,
    held,
    trained_sizes,
    weight_sizes,
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """One step on one target; sizes in bytes on each device, flops of all devices together.

    From the compiler: `needed` and its parts, `cycles`, `collectives`, and `traffic`, which is
    counted in the compiled program. Arithmetic: `flops`, `useful_flops`, `link_seconds`, and what
    follows from both kinds. `hidden_seconds` follow from the order in which the compiler has work
    and collectives.

    Attributes:
      needed: arguments, temporaries, outputs and program; `available` is what there is.
      weights: the frozen model's part of the arguments.
      flops: matrix products of the traced step, with what is computed again.
      useful_flops: 4 x parameters x tokens of a prompt; see `arithmetic.useful_flops`.
      peak_flops, bandwidth: of a device's matrix products, and of its main memory, in a second.
      traffic: read from and written to main memory.
      cycles: a TPU compiler's estimate for all instructions but communication.
      work_seconds: of all kernels, each by the accelerator's `once`.
      link_seconds: the collectives' bytes over the chip's ring bandwidth.
      hidden_seconds: of these, those beside work; see `schedule`.
      method: what trains, as `train` has it.
      trained, parameters: how many numbers that is, and how many the model has.
      masters, state: the arguments' parts that train, and that their optimizer keeps.
    """

    mesh: str
    remat: str
    devices: int
    available: int
    needed: int
    weights: int
    arguments: int
    temporaries: int
    flops: int
    useful_flops: int
    peak_flops: float
    bandwidth: float
    outputs: int = 0
    program: int = 0
    traffic: int = 0
    cycles: int = 0
    work_seconds: float = 0.0
    link_seconds: float = 0.0
    hidden_seconds: float = 0.0
    collectives: Mapping[str, Collective] = dataclasses.field(default_factory=dict)
    compile_seconds: float = 0.0
    method: str = "prompt"
    trained: int = 0
    parameters: int = 0
    masters: int = 0
    state: int = 0

    @property
    def fits(self) -> bool:
        return 0 < self.needed <= self.available

    @property
    def seconds(self) -> float:
        """Seconds of a step, with as much communication beside work as the compiler arranged."""
        return self.work_seconds + self.link_seconds - self.hidden_seconds

    @property
    def useful_share(self) -> float:
        """Useful flops over what all devices could do in that time; 0 where it is not known."""
        possible = self.devices * self.peak_flops * self.seconds
        return self.useful_flops / possible if possible else 0.0

    @property
    def bound(self) -> str:
        """What would take longest at its peak: "products", "memory" or "links"."""
        least = {
            "products": self.flops / (self.devices * self.peak_flops),
            "memory": self.traffic / self.bandwidth,
            "links": self.link_seconds,
        }
        return max(least, key=lambda name: least[name])

    def as_json(self) -> dict[str, Any]:
        """Every attribute, and what is derived from them."""
        derived = {
            name: getattr(self, name) for name in ("fits", "seconds", "useful_share", "bound")
        }
        return dataclasses.asdict(self) | derived


def compiled_plan(
    config: NetworkConfig,
    lengths: Lengths,
    chip: Accelerator,
    devices: Sequence[jax.Device],
    option: Option,
) -> Plan:
    """Compiles the step for a mesh of `devices`."""
    mesh = sharding.make_mesh(option.mesh, devices)
    config = dataclasses.replace(config, remat_policy=option.remat)
    made = compile_step(config, lengths, mesh)
    return from_compiled(config, lengths, chip, option, made, held(config, lengths, mesh))


def from_compiled(
    config: NetworkConfig,
    lengths: Lengths,
    chip: Accelerator,
    option: Option,
    compiled: Compiled,
    kept: Held,
) -> Plan:
    """The numbers of a compiled step, and of what a device keeps of the model between steps."""
    known = _known(config, lengths, chip, option)
    known |= {"compile_seconds": compiled.seconds, "masters": kept.masters, "state": kept.state}
    if compiled.memory is None:
        return Plan(**known, needed=compiled.needed, weights=0, arguments=0, temporaries=0)
    program = Program(compiled.text)
    times = schedule(program, chip)
    return Plan(
        **known,
        **dataclasses.asdict(compiled.memory),
        needed=compiled.needed,
        traffic=program.main_memory_traffic(),
        cycles=program.cycles(),
        work_seconds=times.work,
        link_seconds=times.links,
        hidden_seconds=times.hidden,
        collectives=program.collectives(),
    )


def _known(
    config: NetworkConfig, lengths: Lengths, chip: Accelerator, option: Option
) -> dict[str, Any]:
    """The numbers that need no compiler."""
    sizes, trained = weight_sizes(config, lengths), trained_sizes(config, lengths)
    return {
        "method": lengths.settings.trains,
        "trained": sum(trained.values()),
        "parameters": sum(sizes.values()),
        "mesh": option.mesh,
        "remat": option.remat,
        "devices": option.data * option.fsdp * option.model,
        "available": chip.usable,
        "flops": traced_work(config, lengths)[0].flops,
        "useful_flops": useful_flops(sizes, config, lengths, trained),
        "peak_flops": chip.flops,
        "bandwidth": chip.bandwidth,
    }


def plan_target(
    config: NetworkConfig,
    lengths: Lengths,
    target: Slice | gpus.Node,
    mesh: str | None = None,
    remat: str | None = None,
    tries: int = 3,
) -> Iterator[Plan]:
    """Plans for a TPU slice or a node of GPUs, one compilation each.

    Args:
      mesh: only this one, such as "fsdp:16"; None: the `tries` likeliest.
      remat: only this policy; None: all, or with `mesh` the cheapest that is likely to fit.

    Raises:
      ValueError: nothing divides, libtpu knows no such slice, or `train` would refuse the method.
      ImportError: the target's compiler is not installed.
    """
    check_step(config, lengths)
    devices = target.devices()
    if mesh:
        splits = [meshes.only_mesh(sharding.make_mesh(mesh, devices), lengths.batch)]
    else:
        splits = meshes.meshes(len(devices), lengths.batch, meshes.heads_of(config))
    policies = [remat] if remat else REMAT_POLICIES
    chosen = meshes.likeliest(config, lengths, target.chip, splits, policies)
    for option in chosen[: 1 if mesh else tries]:
        yield compiled_plan(config, lengths, target.chip, devices, option)


def as_json(args: dict[str, Any], found: list[Plan]) -> dict[str, Any]:
    """What was asked, and every plan; `recommended` is a place among them."""
    best = recommended(found)
    return {
        "asked": args,
        "versions": versions(),
        "plans": [plan.as_json() for plan in found],
        "recommended": None if best is None else found.index(best),
    }


def recommended(plans: Sequence[Plan]) -> Plan | None:
    """The fastest of those that fit; None where none does."""
    return min((plan for plan in plans if plan.fits), key=lambda plan: plan.seconds, default=None)


def versions() -> dict[str, str]:
    """Versions of jax and of the compilers, where they are installed."""
    found = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    names = [name for name in ("jax", "jaxlib", "libtpu", *gpus.PLUGINS) if name in found]
    return {name: importlib.metadata.version(name) for name in names}
