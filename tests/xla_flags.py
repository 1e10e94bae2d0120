"""How tests have XLA compile, in this process and in those that they start.

Compiling is most of the tests' time, and code for a few numbers need not be fast.
"""

from importlib.metadata import version

ONE_DEVICE = "--xla_backend_optimization_level=0"
# A jit's compiler_options where the last digit counts: the emitters that users have.
USERS: dict[str, bool] = {}
if version("jax").startswith("0.10."):
    # The older emitters compile in half the time; later releases have none, nor the flag.
    ONE_DEVICE += " --xla_cpu_use_fusion_emitters=false"
    USERS = {"xla_cpu_use_fusion_emitters": True}


def devices(count: int) -> str:
    """`count` simulated devices."""
    return f"{ONE_DEVICE} --xla_force_host_platform_device_count={count}"
