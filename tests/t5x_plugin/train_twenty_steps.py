"""Twenty steps under T5X, and the same with this library's own trainer, in OUTPUT/ours.npz.

python train_twenty_steps.py BASE OUTPUT
"""

import sys
from pathlib import Path

import numpy as np
import own_trainer
import t5x_runs

if __name__ == "__main__":
    base, output = map(Path, sys.argv[1:])
    t5x_runs.train(output, base, TRAIN_STEPS=23)
    first = t5x_runs.prompt(output / f"checkpoint_{t5x_runs.BASE_STEP}")
    prompts = own_trainer.train(base, first, t5x_runs.TASK["BATCH_SIZE"])
    np.savez(output / "ours.npz", **{str(step): prompt for step, prompt in prompts.items()})
