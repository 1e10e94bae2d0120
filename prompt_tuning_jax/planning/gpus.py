"""GPUs that a run is planned for: XLA compiles for them from a description, without any."""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import ClassVar

import jax

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.planning.hardware import GIB, Accelerator
from prompt_tuning_jax.planning.hlo import Kernel

# JAX's own plugins for CUDA, each of which has XLA's compiler for GPUs.
PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")
# What JAX takes of a GPU's memory when a program starts, and where one says otherwise.
MEMORY_FRACTION = 0.75
FRACTION_VARIABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
# GPUs in one machine, all of them linked to one another.
NODE = 8
# Of its links' rate, what a ring of GPUs usually reaches.
_LINK_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class Gpu(Accelerator):
    """A GPU, by its vendor's figures, and what its compiler asks about it.

    Attributes:
      capability: CUDA's version of its instructions.
      cores: multiprocessors.
      units: of a core, float32 operations started in a cycle.
      threads: of a core, at a time.
      shared: bytes of a core's own memory.
      cache: bytes that all cores share.
      clock: cycles per second at most.
    """

    capability: tuple[int, int]
    cores: int
    units: int
    threads: int
    shared: int
    cache: int
    clock: float

    # Chosen for nine steps measured on an H200; `scripts/check_gpu_times.py` compares them. (Of its
    # 989 Tflop/s one large product alone reaches 774 to 799; those of a step do not.)
    MATRIX_SHARE: ClassVar[float] = 0.6
    MEMORY_SHARE: ClassVar[float] = 0.75
    LAUNCH: ClassVar[float] = 5e-6
    # cuDNN's attention in a profile of an XL step: 14 ms forward, 33 ms backward, 24 layers of
    # 32 rows of 612.
    ATTENTION_SHARE: ClassVar[float] = 0.18

    @property
    def usable(self) -> int:
        """As JAX takes it, here and where the run will be."""
        return int(self.memory * float(os.environ.get(FRACTION_VARIABLE, MEMORY_FRACTION)))

    def once(self, kernel: Kernel) -> float:
        """For the slower of its products and its traffic, and a launch.

        Products reach `MATRIX_SHARE` of the peak, traffic `MEMORY_SHARE` of the bandwidth.
        """
        products = kernel.flops / (self.flops * self.MATRIX_SHARE)
        fused = kernel.attention_flops / (self.flops * self.ATTENTION_SHARE)
        traffic = kernel.traffic / (self.bandwidth * self.MEMORY_SHARE)
        return max(products, fused, traffic) + self.LAUNCH

    @property
    def target(self) -> str:
        """As XLA reads it: a GpuTargetConfigProto in text."""
        major, minor = self.capability
        return f"""
            platform_name: "CUDA"
            device_description_str: "NVIDIA {self.name.upper()}"
            dnn_version_info {{ major: 9 minor: 10 }}
            runtime_version {{ major: 12 minor: 9 }}
            gpu_device_info {{
              cuda_compute_capability {{ major: {major} minor: {minor} }}
              core_count: {self.cores}
              fpus_per_core: {self.units}
              clock_rate_ghz: {self.clock / 1e9}
              device_memory_size: {self.memory}
              memory_bandwidth: {int(self.bandwidth)}
              l2_cache_size: {self.cache}
              shared_memory_per_core: {self.shared}
              shared_memory_per_block_optin: {self.shared - 1024}
              shared_memory_per_block: 49152
              threads_per_core_limit: {self.threads}
              threads_per_block_limit: 1024
              threads_per_warp: 32
              registers_per_core_limit: 65536
              registers_per_block_limit: 65536
              block_dim_limit_x: 2147483647
              block_dim_limit_y: 65535
              block_dim_limit_z: 65535
            }}"""


_AMPERE = {
    "capability": (8, 0), "cores": 108, "units": 64, "threads": 2048, "shared": 164 * 1024,
    "cache": 40 * 2**20, "clock": 1.41e9,
}  # fmt: skip
_ADA = {
    "capability": (8, 9), "cores": 58, "units": 128, "threads": 1536, "shared": 100 * 1024,
    "cache": 48 * 2**20, "clock": 2.04e9,
}  # fmt: skip
_HOPPER = {
    "capability": (9, 0), "cores": 132, "units": 128, "threads": 2048, "shared": 228 * 1024,
    "cache": 50 * 2**20, "clock": 1.98e9,
}  # fmt: skip
# Memory as a driver reports it. An L4 has no links of its own: PCI Express takes their place.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100_40gb", int(39.4 * GIB), 312e12, 1.555e12, 300e9 * _LINK_SHARE, **_AMPERE),
        Gpu("a100", int(79.2 * GIB), 312e12, 2.039e12, 300e9 * _LINK_SHARE, **_AMPERE),
        Gpu("h100", int(79.1 * GIB), 989.5e12, 3.352e12, 450e9 * _LINK_SHARE, **_HOPPER),
        Gpu("h200", int(139.8 * GIB), 989.5e12, 4.8e12, 450e9 * _LINK_SHARE, **_HOPPER),
        Gpu("l4", int(22.0 * GIB), 121e12, 300e9, 32e9 * _LINK_SHARE, **_ADA),
    )
}


@dataclasses.dataclass(frozen=True)
class Node:
    """`h100:8`: GPUs of one kind in one machine."""

    chip: Gpu
    count: int

    def devices(self) -> Sequence[jax.Device]:
        """Devices to compile for; none of them exists.

        Raises:
          ImportError: JAX's plugin for CUDA is not installed, or refused to start without a GPU.
        """
        if not any(importlib.util.find_spec(name.replace("-", "_")) for name in PLUGINS):
            raise ImportError(
                "Compiling for GPUs takes JAX's plugin for CUDA (no GPU is needed): "
                "pip install 'prompt-tuning-jax[plan_gpu]'."
            )
        from jax.experimental import topologies

        try:
            return topologies.get_topology_desc(
                platform="cuda", target_config=self.chip.target, topology=f"1x1x{self.count}"
            ).devices
        except NotImplementedError as error:
            raise ImportError(
                "JAX's plugin for CUDA asks for a GPU: set JAX_PLATFORMS=cpu before Python starts."
            ) from error


def parse_node(gpus: str) -> Node:
    """`h100` or `h100:8`.

    Raises:
      ValueError: an unknown GPU, or more than a machine has.
    """
    name, _, count = gpus.partition(":")
    if name not in GPUS:
        raise ValueError(f"{spelled('gpu')} {gpus}: there is {', '.join(GPUS)}, not {name!r}.")
    if not re.fullmatch(rf"[1-{NODE}]", count or "1"):
        raise ValueError(f"{spelled('gpu')} {gpus}: give 1 to {NODE} GPUs, such as {name}:{NODE}.")
    return Node(GPUS[name], int(count or 1))
