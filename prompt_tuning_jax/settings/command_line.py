"""A command line as a config: every declared setting is an option, and a gin macro.

    --data_dir my_data --verbalizers 0=negative 1=positive     options; `--data-dir` is the same
    --gin_file=experiments/bundled_topic.gin                   settings from a file
    --gin.TRAIN_STEPS=100                                      a gin binding, as T5X takes it

An option wins over `--gin.`, which wins over a file.
"""

import dataclasses
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.settings import gin_files, values, words
from prompt_tuning_jax.settings.help import help_text
from prompt_tuning_jax.settings.setting import declared, macro_name, macros, settings_of


def parse(
    config_class: type,
    argv: Sequence[str] | None,
    description: str = "",
    prog: str = "prompt-tuning",
) -> Any:
    """Reads options, gin files and macros, and returns `config_class(...)`.

    Args:
      argv: the arguments; None: the process's own.
      description: what `--help` says of the command before its settings.
      prog: what the command is called.

    Raises:
      UsageError: an unknown setting (the nearest one is suggested), or a value of another kind.
    """
    fields, argv = settings_of(config_class), list(sys.argv[1:] if argv is None else argv)
    for index, word in enumerate(argv):
        if word in ("--help", "-h") or word.startswith("--help="):
            _show_help(config_class, word, argv[index + 1 :], description, prog)
    found = words.split(argv, fields)
    # gin takes the last binding of a name
    bindings = [*map(gin_files.binding, found.bindings), *_bindings(config_class, found.settings)]
    gin_files.parse(found.gin_files, bindings, found.search_paths)
    known, bound = macros(config_class), gin_files.given_macros()
    gin_files.check_known(bound, known)
    given = {known[macro].name: gin_files.value_of(macro) for macro in bound if macro in known}
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in given:
            needed = name.upper() if declared(field).positional else f"--{name}"
            raise UsageError(f"{prog} needs {needed}; {prog} --help says more.")
    return config_class(**given)


def _show_help(
    config_class: type, asked: str, following: Sequence[str], description: str, prog: str
) -> typing.NoReturn:
    """Prints the help asked for: `--help`, `--help all` or `--help GROUP`."""
    part = asked.partition("=")[2]
    if not part and following and not following[0].startswith("-"):
        part = following[0]
    print(help_text(config_class, description, prog, words.GIN_OPTIONS, part), end="")
    sys.exit(0)


def _bindings(config_class: type, given: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The settings that were given, as gin statements."""
    fields = settings_of(config_class)
    for name, its_words in given.items():
        if name == "runs":
            value = values.read_runs(name, its_words, config_class)
        else:
            value = values.read(name, fields[name].type, its_words)
        yield f"{macro_name(name)} = {value!r}"
