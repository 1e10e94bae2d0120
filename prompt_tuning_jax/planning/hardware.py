"""What a run is planned for: a slice of TPUs that libtpu knows how to compile for."""

import abc
import contextlib
import dataclasses
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import jax

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.planning.hlo import Kernel

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Accelerator(abc.ABC):
    """By its vendor's figures.

    Attributes:
      name: as it is asked for.
      memory: bytes of main memory.
      flops: bfloat16 matrix flops per second.
      bandwidth: of its main memory, bytes per second.
      ring: bytes per second that each passes on around a ring of them.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    ring: float

    @property
    def usable(self) -> int:
        """Bytes of its memory that a program may use."""
        return self.memory

    def seconds(self, kernels: Iterable[Kernel]) -> float:
        """Of kernels, one after another."""
        return sum(kernel.times * self.once(kernel) for kernel in kernels)

    @abc.abstractmethod
    def once(self, kernel: Kernel) -> float:
        """Seconds of one run of a kernel."""


@dataclasses.dataclass(frozen=True)
class Chip(Accelerator):
    """A TPU; its memory is what its compiler has, its ring goes both ways round.

    Attributes:
      clock: cycles per second: those at which its matrix units do `flops`.
      sides: of a topology.
      config: what makes one device of one chip in libtpu, where that is not its own choice.
    """

    clock: float
    sides: int = 2
    config: str | None = None

    # Of its flops, what the fused attention kernels are taken to reach: an assumption.
    ATTENTION_SHARE: ClassVar[float] = 0.6

    def once(self, kernel: Kernel) -> float:
        """By the compiler's estimate; its own kernels' by their flops or traffic."""
        seconds = kernel.cycles / self.clock
        if kernel.attention_flops:
            products = kernel.attention_flops / (self.flops * self.ATTENTION_SHARE)
            seconds += max(products, kernel.traffic / self.bandwidth)
        return seconds


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", int(30.75 * GIB), 275e12, 1.228e12, 90e9, 1.05e9, 3, "megacore"),
        Chip("v5e", int(15.75 * GIB), 197e12, 819e9, 90e9, 1.5e9),
        Chip("v5p", int(95.74 * GIB), 459e12, 2.765e12, 180e9, 1.75e9, 3),
        Chip("v6e", int(31.25 * GIB), 918e12, 1.64e12, 180e9, 1.75e9),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """`v5e:4x4`: a kind of chip, and how many stand along each side."""

    chip: Chip
    sides: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.sides))}"

    def devices(self) -> Sequence[jax.Device]:
        """Devices to compile for; none of them exists.

        Raises:
          ImportError: libtpu is not installed.
          ValueError: libtpu knows no such slice.
        """
        if importlib.util.find_spec("libtpu") is None:
            raise ImportError(
                "Compiling for TPUs takes libtpu (no TPU is needed): "
                "pip install 'prompt-tuning-jax[plan]'."
            )
        from jax.experimental import topologies

        sides = (*self.sides, 1, 1)[:3]
        options = {"chips_per_host_bounds": tuple(map(min, sides, (2, 2, 1)))}
        if self.chip.config:
            options["chip_config_name"] = self.chip.config
        try:
            with _without_tpus():
                return topologies.get_topology_desc(
                    platform="tpu", topology_name=self.name, **options
                ).devices
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(f"libtpu cannot compile for {self.name}: {error}.") from error


def parse_slice(topology: str) -> Slice:
    """`v5e:4x4` or `v4:2x2x4`.

    Raises:
      ValueError: an unknown chip, or sides that do not fit it.
    """
    name, _, sides = topology.partition(":")
    if name not in CHIPS:
        raise ValueError(
            f"{spelled('topology')} {topology}: there is {', '.join(CHIPS)}, not {name!r}."
        )
    chip = CHIPS[name]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides) or sides.count("x") + 1 != chip.sides:
        raise ValueError(
            f"{spelled('topology')} {topology}: a {name} slice has {chip.sides} sides, such as "
            f"{name}:{'2x2x4' if chip.sides == 3 else '4x4'}."
        )
    return Slice(chip, tuple(int(side) for side in sides.split("x")))


@contextlib.contextmanager
def _without_tpus() -> Iterator[None]:
    """While libtpu starts: it asks no cloud for a machine, takes no lock, and keeps silent."""
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_LOG_DIR": "disabled",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
