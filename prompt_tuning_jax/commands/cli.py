"""`prompt-tuning COMMAND ...`: the commands by name.

A command's module is imported when the command is called, so that the rest answers at once.
"""

import contextlib
import difflib
import importlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

from prompt_tuning_jax import __version__


class Command(NamedTuple):
    """A module of `commands`: its `main(argv)`, and its CONFIG class or its table of COMMANDS.

    Attributes:
      module: its name.
      summary: one line.
      ends_with_reader: as `command.run` takes it.
    """

    module: str
    summary: str
    ends_with_reader: bool = False

    def load(self) -> ModuleType:
        return importlib.import_module(f"prompt_tuning_jax.commands.{self.module}")


COMMANDS = {
    "train": Command("train", "tune a prompt, or the model, on a task"),
    "sweep": Command("trials.sweep", "try a grid of settings at once, and keep the best prompt"),
    "compare": Command("trials.compare", "methods side by side on a task: scores and costs"),
    "evaluate": Command("evaluate", "score prompts on a task"),
    "infer": Command("inference.infer", "answer each line of a file or of standard input", True),
    "embed": Command("retrieval.embed", "a vector for each line of a file or of standard input"),
    "index": Command("retrieval.index", "documents' vectors, made once and kept"),
    "search": Command("retrieval.search", "the documents of an index nearest to a question"),
    "serve": Command("inference.serve", "answer requests over HTTP, each with its own prompt"),
    "interpret": Command("interpret", "see what a prompt means: nearest words, clusters, drift"),
    "show-task": Command("show_task", "see what a task is, before any training; --list for all"),
    "plan": Command("plan", "see if a run fits TPUs or a GPU that are not at hand, and how fast"),
    "checkpoint": Command("checkpoint", "convert, list, extract and compare T5 models"),
    "export": Command("export_prompt", "a prompt for PEFT, sentence-transformers, or a bare array"),
    "import": Command("import_prompt", "a prompt from PEFT, T5X or a bare array"),
    "combine": Command("combine", "average, interpolate or compose prompts"),
    "similar": Command("transfer.similar", "how near prompts, and so their tasks, are"),
    "recycle": Command("transfer.recycle", "a prompt of one model for another, without training"),
    "completion": Command("completion", "complete all this with the Tab key: bash, zsh or fish"),
}
PROGRAM = "prompt-tuning"
OPTIONS = ("--help", "--version")
_INTERRUPTED = 128 + signal.SIGINT
OVERVIEW = """Prompt tuning of frozen T5 models.

usage: prompt-tuning COMMAND ...

{commands}

`prompt-tuning COMMAND --help` shows an example and the settings to begin with, `--help all` every
one. To begin, with a model and a prompt that come with the package:

    echo "I dined at the Wild Bear, and the cook was remarkable." \\
        | prompt-tuning infer --prompt bundled_topic
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
        _run(COMMANDS[name], arguments, shlex.join([PROGRAM, name, *arguments]))
    else:
        nearest = difflib.get_close_matches(name, [*COMMANDS, *OPTIONS], n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(COMMANDS)}."
        print(f"error: there is no command {name}; {hint}", file=sys.stderr)
        sys.exit(2)


def _run(one: Command, arguments: list[str], line: str) -> None:
    try:
        with _interrupts_end_at_once():
            from prompt_tuning_jax.commands import command  # JAX, for which `--help` need not wait

            module = one.load()
        command.run(lambda: module.main(arguments), one.ends_with_reader, line)
    except KeyboardInterrupt:  # just before `run` looks after them, or just after
        sys.exit(_INTERRUPTED)


@contextlib.contextmanager
def _interrupts_end_at_once() -> Iterator[None]:
    """For imports, in which an exception can become another, or be lost, on its way up."""
    before = signal.getsignal(signal.SIGINT)
    own = threading.current_thread() is threading.main_thread()
    if own and before is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        yield
    finally:
        if own:
            signal.signal(signal.SIGINT, before)
