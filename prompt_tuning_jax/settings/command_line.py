"""A command line as a config: every declared setting is an option, and a gin macro.

    --data_dir my_data --verbalizers 0=negative 1=positive     options; `--data-dir` is the same
    --gin_file=experiments/bundled_topic.gin                   settings from a file
    --gin.TRAIN_STEPS=100                                      a gin binding, as T5X takes it

An option wins over `--gin.`, which wins over a file.
"""

import argparse
import dataclasses
import difflib
import itertools
import sys
import typing
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.settings import gin_files, values
from prompt_tuning_jax.settings.help import help_text
from prompt_tuning_jax.settings.setting import (
    declared,
    kinds_of,
    macro_name,
    macros,
    settings_of,
)

GIN_OPTIONS = {
    "--gin_file": "settings from a file: a path, or an installed experiments/NAME.gin; repeatable",
    "--gin_search_paths": "where else to look for gin files, with commas between them",
}


class Parser(argparse.ArgumentParser):
    """A parser that keeps its description's lines, takes no abbreviations, and errs in one line."""

    def __init__(self, **options: Any):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> typing.NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help says more\n")


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
    fields = settings_of(config_class)
    argv = list(_normalised(sys.argv[1:] if argv is None else argv, fields))
    for asked in (argument for argument in argv if argument.partition("=")[0] == "--help"):
        _show_help(config_class, argv, asked, description, prog)
    # argparse would take a binding with a blank in it for a positional argument.
    is_binding = [argument.startswith("--gin.") and "=" in argument for argument in argv]
    options = [argument for argument, is_gin in zip(argv, is_binding, strict=True) if not is_gin]
    args, rest = _parser(config_class, prog).parse_known_args(options)
    _refuse(rest, fields)
    bindings = list(map(gin_files.binding, itertools.compress(argv, is_binding)))
    bindings += _option_bindings(config_class, vars(args))
    search_paths = [path for path in args.gin_search_paths.split(",") if path]
    gin_files.parse(args.gin_file, bindings, search_paths)
    known, given = macros(config_class), gin_files.given_macros()
    gin_files.check_known(given, known)
    given = {known[macro].name: gin_files.value_of(macro) for macro in given if macro in known}
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in given:
            raise UsageError(f"{prog} needs {_metavar(field)}; {prog} --help says more.")
    return config_class(**given)


def _normalised(argv: Sequence[str], fields: Any) -> Iterator[str]:
    """Options with underscores for hyphens, and `-h` as `--help`."""
    known = {*fields, *(f"no_{name}" for name in fields), "gin_file", "gin_search_paths"}
    for argument in argv:
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument == "-h":
            yield "--help"
        elif argument.startswith("--") and name.replace("-", "_") in known:
            yield f"--{name.replace('-', '_')}{equals}{value}"
        else:
            yield argument


def _show_help(
    config_class: type, argv: Sequence[str], asked: str, description: str, prog: str
) -> typing.NoReturn:
    """Prints the help asked for: `--help`, `--help all` or `--help GROUP`."""
    _, _, part = asked.partition("=")
    following = argv[argv.index(asked) + 1 :][:1]
    part = part or "".join(word for word in following if not word.startswith("-"))
    print(help_text(config_class, description, prog, GIN_OPTIONS, part), end="")
    sys.exit(0)


def _parser(config_class: type, prog: str) -> Parser:
    parser = Parser(prog=prog, add_help=False)
    parser.add_argument("--gin_file", action="append", default=[])
    parser.add_argument("--gin_search_paths", default="")
    for name, field in settings_of(config_class).items():
        several = values.takes_several(field.type)
        if declared(field).positional:
            nargs = "*" if several else "?"
            parser.add_argument(f"positional {name}", nargs=nargs, default=None)
        if bool in kinds_of(field.type):
            parser.add_argument(f"--{name}", nargs="?", const="True", action="append")
            parser.add_argument(f"--no_{name}", action="append_const", const="False", dest=name)
        else:
            parser.add_argument(f"--{name}", nargs="+" if several else None, action="append")
    return parser


def _refuse(rest: Sequence[str], fields: Collection[str]) -> None:
    """Refuses what is no option, with the nearest one."""
    for argument in rest:
        if not argument.startswith("-"):
            raise UsageError(f"There is no place for {argument!r}; --help shows what there is.")
        name = argument.partition("=")[0]
        options = [f"--{each}" for each in fields]
        asked = f"--{name.removeprefix('--').replace('-', '_')}"
        nearest = difflib.get_close_matches(asked, options, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else "; --help all shows what there is."
        raise UsageError(f"There is no option {name}{hint}")


def _option_bindings(config_class: type, args: dict[str, Any]) -> Iterator[str]:
    """The options that were given, as gin statements."""
    for name, field in settings_of(config_class).items():
        given = args[name] or []  # one entry for each time that the option was given
        words = args.get(f"positional {name}")
        if words:  # neither None nor no words at all
            given = [words, *given]
        if not given:
            continue
        if len(given) > 1:
            raise UsageError(f"--{name} is given twice.")
        words = [given[0]] if isinstance(given[0], str) else given[0]
        if name == "runs":
            value = values.read_runs(name, words, config_class)
        else:
            value = values.read(name, field.type, words)
        yield f"{macro_name(name)} = {value!r}"


def _metavar(field: dataclasses.Field) -> str:
    return field.name.upper() if declared(field).positional else f"--{field.name}"
