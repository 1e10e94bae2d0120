"""Trains under T5X on the devices that XLA_FLAGS simulates, on several meshes.

python train_on_devices.py BASE OUTPUT
"""

import sys
from pathlib import Path

import t5x_runs

# Replica of the model -> its devices, in T5X's terms; the other devices are for data.
MESHES = {"data8": (1, 1, 1, 1), "data4_model2": (1, 1, 1, 2)}

if __name__ == "__main__":
    base, output = map(Path, sys.argv[1:])
    for mesh, submesh in MESHES.items():
        for microbatches in (1, 2):
            t5x_runs.train(
                output / f"{mesh}_{microbatches}",
                base,
                MODEL_PARALLELISM=None,
                MODEL_PARALLEL_SUBMESH=submesh,
                NUM_MICROBATCHES=None if microbatches == 1 else microbatches,
                BATCH_SIZE=16,
            )
