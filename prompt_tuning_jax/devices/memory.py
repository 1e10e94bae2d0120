"""Whether there is memory for some arrays, by arithmetic, before any is taken."""

import math
import os
from typing import Any

import jax


def total_memory() -> int:
    """Bytes of the devices of all processes, which have as many each; of CPUs, their machines'."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        own = sum(each["bytes_limit"] for each in stats)
    else:
        own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return own * jax.process_count()


def check_fits(arrays: Any, copies: int, what: str) -> None:
    """Refuses what no memory here can hold, such as a cache for very many hypotheses.

    Args:
      arrays: a tree of arrays, which may be traced.
      copies: how many there will be of it.
      what: the settings that decide on the size.

    Raises:
      ValueError: it names both sizes.
    """
    leaves = jax.tree.leaves(arrays)
    needed = copies * sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
    if needed > (available := total_memory()):
        raise ValueError(
            f"{what} take {needed / 2**30:,.0f} GiB of memory, and there are "
            f"{available / 2**30:,.0f}: lower one of them."
        )
