"""Training: prompt tuning, model tuning, or both; one run, or several on one frozen model.

    prompt-tuning train --gin_file=experiments/bundled_sentiment.gin \\
        --gin.MODEL_DIR=runs/sentiment

or, from Python,

    result = pt.train(task="bundled_sentiment", model_dir="runs/sentiment", prompt_length=20)
    model.classify(texts, verbalizers, prompt=result.prompt)

MODEL_DIR holds `best/` and `last/` (the prompt, or the tuned model), `prompts/STEP/` (the prompt
at step 0 and at each evaluation, which `interpret` reads), `history.json`, `tensorboard/`, and
`state/`, from which the same command continues after an interruption. With RUNS, which tunes
several prompts at once, MODEL_DIR/NAME holds what each of them leaves behind:

    prompt-tuning train --gin_file=experiments/bundled_woman.gin --gin.MODEL_DIR=runs/woman \\
        --gin.RUNS="{'seed0': {'RANDOM_SEED': 0}, 'seed1': {'RANDOM_SEED': 1}}"
"""

from prompt_tuning_jax.commands import command
from prompt_tuning_jax.devices import hosts
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.train import train, train_many


def main(argv: list[str] | None = None) -> None:
    config = command.parse(TrainConfig, argv, __doc__)
    with hosts.connected():
        train(config) if config.runs is None else train_many(config.runs, config)


if __name__ == "__main__":
    command.run(main)
