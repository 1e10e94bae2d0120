"""Runs a module as one process of a run over several hosts.

    python scripts/run_on_host.py t5x.train --gin_file=... --gin.MODEL_DIR="'gs://...'"

does what `python -m t5x.train ...` does, after `jax.distributed.initialize()`: checkpoints of a
multi-host run need the processes to wait for each other. On a TPU pod slice and under Slurm, JAX
finds the other hosts by itself. scripts/launch_tpu_pod.sh starts this on every host.
"""

import os
import runpy
import sys

import jax


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        sys.exit(__doc__)
    if argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    jax.distributed.initialize()
    # As with -m, modules in the working directory can be imported.
    sys.path[0] = os.getcwd()
    sys.argv = argv[1:]
    runpy.run_module(argv[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv)
