"""Makes the pre-built prompts of the bundled models: trained, scored on test, and described.

    python scripts/make_bundled_prompts.py                               # all, about 20 minutes
    python scripts/make_bundled_prompts.py bundled_topic --force         # this one, anew

One prompt for every bundled task (seed 0), and four more for bundled_woman (seeds 1 to 4), which
with the first make an ensemble; and two for the causal model. Each is one installed experiment, for
the T5 as it is, and gets a directory with `prompt.safetensors`, `prompt.json` and `CARD.md`. An
interrupted run continues from where it was; a prompt that is already there is left alone.
"""

import argparse
import dataclasses
import os
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import prompt_tuning_jax as pt
from prompt_tuning_jax import bundled
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS, bundled_task
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.checkpoints.prompt_file import save_prompt
from prompt_tuning_jax.commands.command import use_compilation_cache
from prompt_tuning_jax.evaluation.scoring import evaluate_task
from prompt_tuning_jax.settings import command_line
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.tuned_prompt import TunedPrompt

OUTPUT = Path(bundled.__file__).parent / "prompts"
ENSEMBLE = "bundled_woman"


class Recipe(NamedTuple):
    """What a prompt is tuned for."""

    task: str
    seed: int = 0
    model: str = "bundled"


# By the names of the prompts.
RECIPES = {task: Recipe(task) for task in BUNDLED_TASKS}
RECIPES |= {f"{ENSEMBLE}_seed{seed}": Recipe(ENSEMBLE, seed) for seed in range(1, 5)}
RECIPES |= {
    f"bundled_causal_{name}": Recipe(f"bundled_{name}", model="bundled_causal")
    for name in ("narrator", "topic")
}
MODELS = {"bundled": "bundled T5 1.1", "bundled_causal": "bundled causal model"}

LINE_BREAK = " \\\n        "
CARD = """# {name}

A prompt for the {model}: {length} vectors of width {width}, placed as {layout}.

- Task: {task}; {answers}.
- Accuracy: {validation:.1f} % on validation (500 examples), {test:.1f} % on test (1,000 examples).
  Step {step} of {steps} was chosen, for being the best on validation.
- Base model: {base}, fingerprint `{fingerprint}`.
- Use: `{use}`

## How it was made

    {command}

The whole set, cards included: `python scripts/make_bundled_prompts.py`. Seed {seed}.

Machine: {machine}; {versions}.
"""


def train_arguments(name: str, work: str, steps: int | None) -> list[str]:
    """What `prompt-tuning train` is told to make this prompt."""
    task, seed, model = RECIPES[name]
    settings = [f"--gin_file=experiments/{task}.gin", "--seed", str(seed), *model_option(model)]
    if steps is not None:
        settings += ["--train_steps", str(steps)]
    return [*settings, "--model_dir", f"{work}/{name}"]


def model_option(model: str) -> list[str]:
    """What names a model to a command that is for the bundled T5 where nothing does."""
    return [] if model == "bundled" else ["--model", model]


def make(name: str, work: Path, output: Path, steps: int | None = None) -> Path:
    """Trains one prompt, scores it on test, and writes its directory; the card comes last."""
    model = pt.load_model(RECIPES[name].model)
    config = command_line.parse(TrainConfig, train_arguments(name, str(work), steps), "")
    prompt = pt.train(dataclasses.replace(config, model=model)).prompt
    lengths = {"feature_lengths": config.feature_lengths, "batch_size": 100}
    test = evaluate_task(model, bundled_task(config.task), "test", prompt, **lengths).scores
    folder = save_prompt(output / name, prompt, seed=config.seed, test_scores=test)
    with new_file(folder / "CARD.md") as partial:
        partial.write_text(card(name, config, prompt, test, train_arguments(name, "runs", steps)))
    return folder


def card(
    name: str, config: TrainConfig, prompt: TunedPrompt, test: dict[str, Any], arguments: list[str]
) -> str:
    """The card's text; `arguments` are those of the command that trains the prompt."""
    facts = prompt.metadata
    words = facts.get("verbalizers")
    packages = ("prompt-tuning-jax", "jax", "numpy")
    base = RECIPES[name].model
    use = ["prompt-tuning", "infer", "--prompt", name, *model_option(base)]
    return CARD.format(
        name=name,
        model=MODELS[base],
        base=base,
        use=shlex.join(use),
        length=prompt.shape[0],
        width=prompt.shape[1],
        layout=prompt.layout,
        task=config.task,
        answers=f"answers {', '.join(words)}" if words else "the answer is a name from the text",
        validation=facts["scores"]["accuracy"],
        test=test["accuracy"],
        step=facts["step"],
        steps=config.train_steps,
        fingerprint=facts["base_model_fingerprint"],
        command=shlex.join(["prompt-tuning", "train", *arguments]).replace(
            " --", " \\\n        --"
        ),
        seed=config.seed,
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        versions=", ".join(
            [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
        ),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(RECIPES), help="all by default")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bundled_prompts"), help="where to train"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the prompts go")
    parser.add_argument("--steps", type=int, help="instead of the experiment's own")
    parser.add_argument("--force", action="store_true", help="those that are already there too")
    args = parser.parse_args(argv)
    if unknown := set(args.names) - set(RECIPES):
        parser.error(
            f"no recipe for {', '.join(sorted(unknown))}; choose from {', '.join(RECIPES)}"
        )
    use_compilation_cache()
    for name in args.names:
        if (args.output / name / "CARD.md").exists() and not args.force:
            print(f"{name} is already there")
            continue
        print(make(name, args.work, args.output, args.steps), flush=True)


if __name__ == "__main__":
    main()
