"""A sweep for the best settings: every combination of a grid, many prompts in one job.

    prompt-tuning sweep bundled_woman --prompt_length 20 --model_dir runs/sweep \\
        --grid learning_rate=0.1,0.3,1 seed=0,1,2 --train_steps 240 --eval_period 40

ends with a table, best settings first, and leaves the best prompt in --model_dir/best, beside
sweep.json and sweep.png. The best settings go to standard output as JSON. With --halve_at 80 160
the worse half of the trials ends at each of these steps.
"""

import json

from prompt_tuning_jax.commands.trials import logs
from prompt_tuning_jax.devices import hosts
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.sweep_config import SweepConfig
from prompt_tuning_jax.training.sweep.sweep import sweep

CONFIG = SweepConfig


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning sweep")
    with hosts.connected(), logs.on_standard_error():
        found = sweep(config=config)
        if hosts.is_first():
            best = {"settings": found.rows[0].to_json()["settings"], "prompt": found.directory}
            print(json.dumps(best), flush=True)
