"""What a tuned prompt means: its nearest words, labels, norms, clusters, and its way in training.

    prompt-tuning interpret bundled_topic
    prompt-tuning interpret runs/topic/best --output runs/topic/meaning
    prompt-tuning interpret sentiment.npy --model t5-v1_1-small --verbalizers positive negative

Each position of the prompt is compared with the embeddings of the frozen model's vocabulary, as in
the paper's section 7. Drift from the initialisation and changes over training are told from the
prompts that training leaves in its model_dir; for a prompt within one they are found, for any other
--model_dir names it. With --output, a directory gets index.html to read, interpretation.json, and
the pictures; without, the terminal gets tables. In Python it is `prompt_tuning_jax.interpret`.
"""

from collections.abc import Mapping, Sequence

import rich.console

from prompt_tuning_jax.bounds import Bounds
from prompt_tuning_jax.data.templates import words_of
from prompt_tuning_jax.interpretation.interpret import interpret
from prompt_tuning_jax.interpretation.page import write_output
from prompt_tuning_jax.interpretation.table import print_findings
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.common import MismatchConfig, ModelConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings


@settings
class InterpretConfig(MismatchConfig, ModelConfig):
    """What `prompt-tuning interpret` takes."""

    prompt: PathLike = setting(
        help="a prompt's file, directory or, of a pre-built one, name.",
        group="prompt",
        positional=True,
    )
    neighbours: int = setting(
        default=5,
        help="how many pieces to find for each position.",
        group="prompt",
        bounds=Bounds(1, 1000),
    )
    verbalizers: Mapping[str, str] | Sequence[str] | None = setting(
        default=None,
        help="words to look for, instead of the prompt's own; raw label=word too.",
        group="data",
    )
    model_dir: PathLike | None = setting(
        default=None, help="of the run that made the prompt.", group="training"
    )
    output: PathLike | None = setting(
        default=None, help="a directory for a page, pictures and JSON.", group="evaluation"
    )


CONFIG = InterpretConfig


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning interpret")
    found = interpret(
        config.prompt,
        config.model,
        neighbours=config.neighbours,
        verbalizers=None if config.verbalizers is None else words_of(config.verbalizers),
        model_dir=config.model_dir,
        vocabulary=config.vocabulary,
        allow_prompt_mismatch=config.allow_prompt_mismatch,
    )
    if config.output is None:
        print_findings(found, rich.console.Console(highlight=False))
    else:
        print(write_output(found, config.output))
