"""Methods side by side on your own task: scores over seeds, and what each costs.

    prompt-tuning compare --data_dir my_data --input_template 'sentence: {sentence}' \\
        --verbalizers 0=negative 1=positive --prompt_length 20 --train_steps 300 \\
        --methods majority,no_prompt,prompt,lora,ia3,model --model_dir runs/compare

ends with a table; --model_dir holds every run, comparison.json and comparison.png, and the rows go
to standard output as JSON. Checkpoints and learning rates (--rates model=0.001,0.003) are chosen on
validation.
"""

import dataclasses
import json

from prompt_tuning_jax.commands.trials import logs
from prompt_tuning_jax.devices import hosts
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.compare_config import CompareConfig
from prompt_tuning_jax.training.comparison.compare import compare

CONFIG = CompareConfig


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning compare")
    with hosts.connected(), logs.on_standard_error():
        rows = compare(config)
        if hosts.is_first():
            print(json.dumps([dataclasses.asdict(row) for row in rows]), flush=True)
