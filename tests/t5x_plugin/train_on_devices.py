"""Trains under T5X on the devices that XLA_FLAGS simulates, on several meshes.

python train_on_devices.py BASE OUTPUT
"""

import sys
from pathlib import Path

import t5x_runs

# How the devices are divided; what is not for a replica of the model is for data.
MESHES = {
    "data8": {"MODEL_PARALLELISM": 1},
    "data4_model2": {"MODEL_PARALLELISM": 2},
    "data4_submesh2": {"MODEL_PARALLELISM": None, "MODEL_PARALLEL_SUBMESH": (1, 1, 1, 2)},
}

if __name__ == "__main__":
    base, output = map(Path, sys.argv[1:])
    for mesh, settings in MESHES.items():
        for microbatches in (None, 2):
            t5x_runs.train(
                output / f"{mesh}_{microbatches or 1}",
                base,
                NUM_MICROBATCHES=microbatches,
                BATCH_SIZE=16,
                TRAIN_STEPS=t5x_runs.BASE_STEP + 4,
                CHECKPOINT_PERIOD=1,
                **settings,
            )
