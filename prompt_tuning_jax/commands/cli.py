"""`prompt-tuning COMMAND ...`, which is `python -m prompt_tuning_jax.MODULE ...` in fewer letters.

A command's module is imported when the command is called, so that the rest answers at once.
"""

import dataclasses
import difflib
import importlib
import sys

from prompt_tuning_jax import __version__


@dataclasses.dataclass(frozen=True)
class Command:
    """Where a command is.

    Attributes:
      module: within the package; its `main` takes the arguments that follow the command's name.
      summary: one line.
      config: the class that a gin command reads; None for a command with options.
      ends_with_reader: as `command.run` takes it.
    """

    module: str
    summary: str
    config: str | None = None
    ends_with_reader: bool = False


COMMANDS = {
    "train": Command("train", "tune a prompt, or the model, on a task", config="TrainConfig"),
    "evaluate": Command("commands.evaluate", "score prompts on a task", config="EvaluateConfig"),
    "infer": Command(
        "commands.infer",
        "answer each line of a file or of standard input",
        config="InferConfig",
        ends_with_reader=True,
    ),
    "interpret": Command("commands.interpret", "see what a prompt means: nearest words, clusters, drift"),
    "show-task": Command("commands.show_task", "see what a task is, before any training"),
    "plan": Command("commands.plan", "see if a run fits TPUs or a GPU that are not at hand, and how fast"),
    "checkpoint": Command("commands.checkpoint", "models between T5X and Hugging Face; list, extract, compare"),
    "export": Command("commands.export_prompt", "a prompt for PEFT, or as a bare array"),
    "import": Command("commands.import_prompt", "a prompt from PEFT, T5X or a bare array"),
    "combine": Command("commands.combine", "average, interpolate or compose prompts"),
    "completion": Command("commands.completion", "complete all this with the Tab key: bash, zsh or fish"),
}
PROGRAM = "prompt-tuning"
OPTIONS = ("--help", "--version")
OVERVIEW = """Prompt tuning of frozen T5 models.

usage: prompt-tuning COMMAND ...

{commands}

`prompt-tuning COMMAND --help` shows an example and every setting. To begin, with a model and a
prompt that come with the package:

    echo "I dined at the Wild Bear, and the cook was remarkable." \\
        | prompt-tuning infer --gin.PROMPT=bundled_topic
"""


def overview() -> str:
    """What `prompt-tuning` says when it is told nothing."""
    lines = [f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()]
    return OVERVIEW.format(commands="\n".join(lines))


def main(argv: list[str] | None = None) -> None:
    """Runs a command; an unknown one is answered with the nearest, and exit status 2."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h"):
        print(overview(), end="")
    elif name == "--version":
        print(f"{PROGRAM} {__version__}")
    elif name in COMMANDS:
        _run(name, arguments)
    else:
        nearest = [each for each, one in COMMANDS.items() if one.module.rpartition(".")[2] == name]
        nearest += difflib.get_close_matches(name, [*COMMANDS, *OPTIONS], n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(COMMANDS)}."
        print(f"error: there is no command {name}; {hint}", file=sys.stderr)
        sys.exit(2)


def _run(name: str, arguments: list[str]) -> None:
    one = COMMANDS[name]
    sys.argv[0] = f"{PROGRAM} {name}"  # what argparse calls the program
    try:
        from prompt_tuning_jax.commands import command

        module = importlib.import_module(f"prompt_tuning_jax.{one.module}")
    except KeyboardInterrupt:
        sys.exit(130)
    command.run(lambda: module.main(arguments), one.ends_with_reader)
