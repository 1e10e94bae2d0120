"""How tests have XLA compile, in this process and in those that they start.

Compiling is most of the tests' time, and code for a few numbers need not be fast.
"""

ONE_DEVICE = "--xla_backend_optimization_level=0"


def devices(count: int) -> str:
    """`count` simulated devices."""
    return f"{ONE_DEVICE} --xla_force_host_platform_device_count={count}"
