"""Training: prompt tuning, model tuning, or both.

    prompt-tuning train bundled_sentiment --prompt_length 20 --model_dir runs/sentiment
    prompt-tuning train --gin_file=experiments/bundled_sentiment.gin --model_dir runs/experiment
    prompt-tuning train --data_dir my_data --input_template 'sentence: {sentence}' \\
        --verbalizers 0=negative 1=positive --model_dir runs/mine

--model_dir holds best/ and last/ (the prompt, or the tuned model), prompts/STEP/ (the prompt at
step 0 and at each evaluation, which `interpret` reads), history.json, tensorboard/, and state/,
from which the same command continues after an interruption. --runs tunes several prompts at once.
"""

from prompt_tuning_jax.devices import hosts
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.train import train, train_many

CONFIG = TrainConfig


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning train")
    with hosts.connected():
        if config.runs is None and not config.mix_tasks:
            train(config)
        else:
            train_many(config.runs, config)
