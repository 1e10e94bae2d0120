"""How tests have XLA compile, in this process and in those that they start.

Compiling is most of the tests' time, and code for a few numbers need not be fast. Flags that were
in XLA_FLAGS before come behind ours, and so count, in every process.
"""

import importlib.util
import os
from importlib.metadata import version

GIVEN = os.environ.get("XLA_FLAGS", "")
_OURS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if version("jax").startswith("0.10.") and importlib.util.find_spec("libtpu") is None:
    # The older emitters compile in half the time; later releases have none, nor the flag, and a
    # TPU's compiler, which reads the same flags, ends the process for one that it does not know.
    _OURS += " --xla_cpu_use_fusion_emitters=false"


def devices(count: int) -> str:
    """`count` simulated devices."""
    return f"{_OURS} {GIVEN} --xla_force_host_platform_device_count={count}"


ONE_DEVICE = devices(1)
