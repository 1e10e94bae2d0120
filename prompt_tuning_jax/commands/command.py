"""`prompt-tuning X --gin_file=... --gin.NAME=value`: macros become a config; how a command ends.

A command's config is a dataclass. Every field is a gin macro in capitals (`train_steps` is
`TRAIN_STEPS`), with T5X's names for those that T5X has. Macros may stand in any gin file or on the
command line, in any order of files; the command line wins.
"""

import argparse
import ast
import contextlib
import io
import logging
import os
import re
import signal
import sys
import tokenize
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import gin
import jax

from prompt_tuning_jax import gin_configs
from prompt_tuning_jax.errors import MISTAKES
from prompt_tuning_jax.settings.help import settings_help
from prompt_tuning_jax.settings.macros import (
    UsageError,
    check_known,
    check_type,
    given_macros,
    macro_name,
    macros,
)

_GIN_CONFIGS = Path(gin_configs.__file__).parent


class Parser(argparse.ArgumentParser):
    """A parser that keeps its description's lines, takes no abbreviations, and errs in one line."""

    def __init__(self, **options: Any):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("prog", _module_command())
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> typing.NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help says more\n")


def _module_command() -> str | None:
    """`python -m prompt_tuning_jax.X` if that is what was called; None: as sys.argv[0] says."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    inside = spec is not None and spec.name.startswith("prompt_tuning_jax.")
    return f"python -m {spec.name}" if inside and not spec.name.endswith("__main__") else None


def parse(config_class: Callable[..., Any], argv: list[str] | None, description: str) -> Any:
    """Reads gin files and macros from `argv` and returns `config_class(...)`.

    Raises:
      UsageError: an unknown macro (the nearest one is suggested) or a value that does not parse.
    """
    fields = macros(config_class)
    parser = Parser(
        usage="%(prog)s [--gin_file=FILE ...] [--gin.NAME=value ...]",
        description=description,
        epilog=settings_help(fields, config_class),
    )
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="settings: a path, or an installed experiments/NAME.gin; may be repeated",
    )
    parser.add_argument(
        "--gin_search_paths",
        default="",
        metavar="FOLDERS",
        help="where else to look for gin files, with commas between them",
    )
    args, rest = parser.parse_known_args(argv)
    bindings = [_binding(argument) for argument in rest]
    folders = [Path(), *map(Path, filter(None, args.gin_search_paths.split(","))), _GIN_CONFIGS]
    for folder in folders:
        gin.add_config_file_search_path(str(folder))
    gin.clear_config()
    files = [_find(name, folders) for name in args.gin_file]
    _read(files, bindings)
    given = {fields[macro].name: _expand_home(_resolve(macro)) for macro in _defined(fields)}
    for field in fields.values():
        if field.name in given:
            check_type(macro_name(field.name), given[field.name], field.type)
    return config_class(**given)


def _find(name: str, folders: Sequence[Path]) -> str:
    """A gin file by its path, or its path within one of the folders."""
    for folder in folders:
        if (folder / name).is_file():
            return str(folder / name)
    ours = ", ".join(installed_gin_files())
    raise FileNotFoundError(f"No gin file {name}; those that come installed: {ours}.")


def installed_gin_files() -> list[str]:
    """Those that `--gin_file` finds by these names."""
    files = (p.relative_to(_GIN_CONFIGS) for p in _GIN_CONFIGS.rglob("*.gin"))
    return sorted(str(file) for file in files if file.parts[0] != "t5x")  # those are T5X's to read


def _read(files: list[str], bindings: list[str]) -> None:
    try:
        # gin logs an error for each folder in which it does not find an include
        with _quiet_logging():
            gin.parse_config_files_and_bindings(files, bindings, finalize_config=False)
    except (SyntaxError, tokenize.TokenError) as error:
        place = getattr(error, "filename", None) or ", ".join([*files, *bindings])
        raise UsageError(f"Gin cannot read {place}: {error}. Strings need quotes.") from error


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@gin.configurable(module="prompt_tuning_jax.commands.command")
def setting(value: Any = gin.REQUIRED) -> Any:
    """Gives a macro's value with its references resolved; gin binds it within `_resolve`."""
    return value


def _resolve(macro: str) -> Any:
    gin.parse_config(f"{macro}/prompt_tuning_jax.command.setting.value = %{macro}")
    try:
        with gin.config_scope(macro):
            return setting()
    except TypeError as error:  # a macro or an argument that nothing binds; gin says which
        raise UsageError(f"{macro}: {' '.join(str(error).split())}") from error


def _expand_home(value: Any) -> Any:
    """`~/runs` is below the user's home; no shell expands it after `--gin.NAME=`."""
    if isinstance(value, str) and value.startswith("~/"):
        return os.path.expanduser(value)
    if type(value) in (list, tuple):
        return type(value)(map(_expand_home, value))
    if isinstance(value, dict):
        return {name: _expand_home(each) for name, each in value.items()}
    return value


def _defined(settings: Mapping[str, Any]) -> list[str]:
    """The settings among the macros given; every other macro must serve one of gin's bindings."""
    given = given_macros()
    try:
        check_known(given, settings)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return [macro for macro in given if macro in settings]


def _binding(argument: str) -> str:
    """`--gin.NAME=value` as a gin statement; a bare word or path counts as a string."""
    match = re.fullmatch(r"--gin\.([^=]+)=(.*)", argument, re.DOTALL)
    if not match:
        raise UsageError(f"Unknown argument {argument!r}; settings are given as --gin.NAME=value.")
    name, value = match.groups()
    template = re.match(r"\{[A-Za-z_]", value)  # "{sentence}": gin's own braces hold quoted keys
    if template or not value.startswith(("@", "%", "[", "(", "{")):
        try:
            ast.literal_eval(value)
        except (SyntaxError, ValueError):
            value = repr(value)
    return f"{name} = {value}"


def use_compilation_cache() -> None:
    """Keeps compiled programs in ~/.cache/prompt_tuning_jax, so that a second run starts at once.

    JAX_COMPILATION_CACHE_DIR names another directory.
    """
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(cache / "prompt_tuning_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


class _Unread:
    """Standard output whose reader may have gone (`... | head`): the rest is then dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._dropped():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropped():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropped(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            _to_nowhere(self._stream)


def _to_nowhere(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(main: Callable[[], None], ends_with_reader: bool = False) -> None:
    """Runs a command; mistakes of use end in one line on standard error, not a traceback.

    The exit status is 2 where the command line or a gin file cannot be understood, 1 for what goes
    wrong later, and that of the signal for an interruption. PROMPT_TUNING_TRACEBACK=1 in the
    environment shows where a mistake was found.

    Args:
      ends_with_reader: whether the command has nothing more to do when nobody reads standard output
        any more; otherwise it goes on, for it may have files to write.
    """
    use_compilation_cache()
    stdout = sys.stdout or io.StringIO()  # None: it was closed before the start
    with contextlib.redirect_stdout(stdout if ends_with_reader else _Unread(stdout)):
        _run(main)


def _run(main: Callable[[], None]) -> None:
    try:
        try:
            main()
        finally:
            sys.stdout.flush()  # here, where a closed pipe is understood
    except BrokenPipeError:
        _to_nowhere(sys.stdout)
        sys.exit(128 + signal.SIGPIPE)
    except MISTAKES as error:
        if os.environ.get("PROMPT_TUNING_TRACEBACK"):
            traceback.print_exc()
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
