"""New prompts from old ones: on the line between two prompts, and the average of several.

One to two minutes on 2 CPU cores. The same from the command line: `prompt-tuning combine --help`.
Prompts of different runs lie far apart: watch the score fall between them.
"""

import argparse

import prompt_tuning_jax as pt
from prompt_tuning_jax.bundled.tasks import bundled_task
from prompt_tuning_jax.combine import average, interpolate
from prompt_tuning_jax.evaluation.scoring import evaluate_task

NAMES = ("bundled_woman", "bundled_woman_seed1", "bundled_woman_seed2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=200, help="examples to score on")
    limit = parser.parse_args().limit
    model, task = pt.load_model("bundled"), bundled_task("bundled_woman")
    prompts = [pt.load_prompt(name) for name in NAMES]

    def accuracy(prompt: pt.TunedPrompt) -> float:
        return evaluate_task(model, task, prompt=prompt, limit=limit).scores["accuracy"]

    for at in (0, 0.25, 0.5, 0.75, 1):
        print(f"interpolated at {at:<5} {accuracy(interpolate(*prompts[:2], at)):.1f} %")
    print(f"average of three      {accuracy(average(prompts)):.1f} %")


if __name__ == "__main__":
    main()
