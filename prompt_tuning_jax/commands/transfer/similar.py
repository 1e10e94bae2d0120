"""How near prompts are to each other: a table, and a heat map.

    prompt-tuning similar bundled --task bundled_topic
    prompt-tuning similar runs --task bundled_topic --step 200
    prompt-tuning similar runs --prompt bundled_topic --output runs/similar

All prompts below a folder are compared; of a run its best one, or with --step the one that it kept
at that step, which stands for its task. With --prompt or --task the others are ranked by their
nearness to that; without, all are compared with all. Prompts of different lengths can be compared,
those of different models cannot: each model has a table of its own. With --output, a directory gets
similarity.png and similarity.json. In Python it is `prompt_tuning_jax.similar`.
"""

from typing import Any

import rich.console

from prompt_tuning_jax.bounds import STEP
from prompt_tuning_jax.commands.transfer.heat_map import print_similarities, write_output
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.setting import PathLike, setting, settings
from prompt_tuning_jax.training.transfer.similarity import MEASURES, similar


@settings
class SimilarConfig:
    """What `prompt-tuning similar` takes."""

    folder: PathLike = setting(
        help="""where the prompts are, at any depth; "bundled" for those that come with the
        package.""",
        group="prompt",
        positional=True,
    )
    prompt: PathLike | None = setting(
        default=None,
        help="rank the others by their nearness to this one: a file, directory or name.",
        group="prompt",
        first=True,
    )
    task: Any = setting(
        default=None,
        help="rank the others by their nearness to this task's prompts in the folder.",
        group="prompt",
        first=True,
    )
    step: int | None = setting(
        default=None,
        help="of runs, the prompt that they kept at this step. None: the best one.",
        group="prompt",
        first=True,
        bounds=STEP,
    )
    measure: str = setting(
        default="pooled",
        help="""pooled, the cosine of the mean rows, or tokens, the mean cosine of all pairs of
        rows.""",
        group="prompt",
        first=True,
        choices=MEASURES,
    )
    output: PathLike | None = setting(
        default=None, help="a directory for the heat map and JSON.", group="evaluation", first=True
    )


CONFIG = SimilarConfig


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning similar")
    found = similar(
        config.folder,
        prompt=config.prompt,
        task=config.task,
        step=config.step,
        measure=config.measure,
    )
    print_similarities(found, rich.console.Console(highlight=False))
    if config.output is not None:
        print(write_output(found, config.output))
