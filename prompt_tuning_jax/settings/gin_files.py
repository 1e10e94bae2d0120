"""Gin files and bindings: where they are found, what they set, and macros that nothing uses.

Macros may stand in any gin file or on the command line, in any order of files; the command line
wins. References such as `@adam()` and `%PROMPT_LENGTH` are resolved as gin resolves them.
"""

import ast
import contextlib
import io
import itertools
import logging
import os
import re
import tokenize
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gin

from prompt_tuning_jax import gin_configs, optim  # noqa: F401, files name its optimizers
from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.settings.setting import macro_name, nearest_hint

_GIN_CONFIGS = Path(gin_configs.__file__).parent


def installed_files() -> list[str]:
    """Those that `--gin_file` finds by these names."""
    files = (p.relative_to(_GIN_CONFIGS) for p in _GIN_CONFIGS.rglob("*.gin"))
    return sorted(str(file) for file in files if file.parts[0] != "t5x")  # those are T5X's to read


def parse(files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str]) -> None:
    """Has gin read the files, and then the bindings, afresh.

    Raises:
      FileNotFoundError: there is no such file, neither here nor in the search paths.
      UsageError: gin cannot read one.
    """
    folders = [Path(), *map(Path, search_paths), _GIN_CONFIGS]
    for folder in folders:
        gin.add_config_file_search_path(str(folder))
    gin.clear_config()
    found = [_find(name, folders) for name in files]
    for file in found:
        _check_includes(file, folders, ())
    try:
        # gin logs an error for each folder in which it does not find an include
        with _quiet_logging():
            gin.parse_config_files_and_bindings(found, bindings, finalize_config=False)
    except (SyntaxError, tokenize.TokenError) as error:
        place = getattr(error, "filename", None) or ", ".join([*found, *bindings])
        raise UsageError(f"Gin cannot read {place}: {error}. Strings need quotes.") from error
    except ValueError as error:  # an unknown name after "@", or before "."
        raise UsageError(f"Gin: {' '.join(str(error).split())}") from error


def _find(name: str, folders: Sequence[Path]) -> str:
    """A gin file by its path, or its path within one of the folders."""
    for folder in folders:
        if (folder / name).is_file():
            return str(folder / name)
    ours = ", ".join(installed_files())
    raise FileNotFoundError(f"There is no gin file {name}; those that come installed: {ours}.")


def _check_includes(file: str, folders: Sequence[Path], way: tuple[str, ...]) -> None:
    """Refuses a file that includes itself, however long the way round.

    Raises:
      UsageError: it names the files of the circle.
    """
    real = os.path.realpath(file)
    if real in way:
        circle = " includes ".join([*way[way.index(real) :], real])
        raise UsageError(f"Gin files in a circle: {circle}. Take one of these includes out.")
    # What cannot be read or found, gin says itself.
    with contextlib.suppress(OSError, UnicodeDecodeError, tokenize.TokenError, SyntaxError):
        for name in _included(Path(file).read_text(encoding="utf-8")):
            for folder in folders:
                if (folder / name).is_file():
                    _check_includes(str(folder / name), folders, (*way, real))
                    break


def _included(text: str) -> Iterator[str]:
    """The names after `include` where a line begins with it; not in a string over several lines."""
    words = list(tokenize.generate_tokens(io.StringIO(text).readline))
    starts = (tokenize.NEWLINE, tokenize.NL, tokenize.ENCODING, tokenize.INDENT, tokenize.DEDENT)
    for before, word, after in zip([None, *words], words, words[1:], strict=False):
        begins = before is None or before.type in starts or before.type == tokenize.COMMENT
        if begins and word.string == "include" and after.type == tokenize.STRING:
            yield ast.literal_eval(after.string)


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def binding(argument: str) -> str:
    """`--gin.NAME=value` as a gin statement; a bare word or path counts as a string."""
    name, _, value = argument.removeprefix("--gin.").partition("=")
    template = re.match(r"\{[A-Za-z_]", value)  # "{sentence}": gin's own braces hold quoted keys
    if template or not value.startswith(("@", "%", "[", "(", "{")):
        try:
            ast.literal_eval(value)
        except (SyntaxError, ValueError):
            value = repr(value)
    return f"{name} = {value}"


@gin.configurable(module="prompt_tuning_jax.settings")
def setting(value: Any = gin.REQUIRED) -> Any:
    """Gives a macro's value with its references resolved; gin binds it within `value_of`."""
    return value


def value_of(macro: str) -> Any:
    """A macro's value; `~` at the start of a path is the user's home.

    Raises:
      UsageError: it refers to a macro or an argument that nothing binds.
    """
    gin.parse_config(f"{macro}/prompt_tuning_jax.settings.setting.value = %{macro}")
    try:
        with gin.config_scope(macro):
            return _expand_home(setting())
    except TypeError as error:
        text, unset = str(error), re.search(r"configurable 'macro' .* in scope '(\w+)'", str(error))
        what = f"nothing sets %{unset[1]}" if unset else text.strip().splitlines()[0].rstrip(".")
        raise UsageError(f"{macro}: {what}.") from error
    except RecursionError as error:  # through an argument: adam.learning_rate = %RATE = @adam()
        raise UsageError(f"{macro} refers to itself: give it a value.") from error


def _check_macro(macro: str, config: str, way: tuple[str, ...]) -> None:
    """Refuses a macro whose value is made of itself, however long the way round.

    Raises:
      UsageError: it names the macros of the circle.
    """
    if macro in way:
        circle = [*way[way.index(macro) :], macro]
        steps = ", ".join(f"{a} = %{b}" for a, b in itertools.pairwise(circle))
        raise UsageError(f"{macro} refers to itself ({steps}): give one of these a value.")
    statement = re.search(rf"^{re.escape(macro)} =((?:.*\n)(?:[ \t]+.*\n)*)", config, re.MULTILINE)
    for other in _macros_in(statement[1]) if statement else ():
        _check_macro(other, config, (*way, macro))


def _macros_in(value: str) -> Iterator[str]:
    """Those that a value refers to, outside its strings."""
    words = tokenize.generate_tokens(io.StringIO(f"({value})").readline)
    percent = False
    for word in words:
        if percent and word.type == tokenize.NAME:
            yield word.string
        percent = word.string == "%"


def _expand_home(value: Any) -> Any:
    """No shell expands `~/runs` after `--gin.NAME=`."""
    if isinstance(value, str) and value.startswith("~/"):
        return os.path.expanduser(value)
    if type(value) in (list, tuple):
        return type(value)(map(_expand_home, value))
    if isinstance(value, dict):
        return {name: _expand_home(each) for name, each in value.items()}
    return value


def given_macros() -> list[str]:
    """Those that gin has a value for, in the order of their names."""
    return re.findall(r"^(\w+) =", gin.config_str(), re.MULTILINE)


def check_known(given: Iterable[str], known: Collection[str]) -> None:
    """Refuses a macro that is neither known nor used by any of gin's bindings, or made of itself.

    Raises:
      UsageError: it names the macro and the nearest known one.
    """
    text = gin.config_str()
    for macro in given:
        _check_macro(macro, text, ())
        if macro not in known and not re.search(rf"%{macro}\b", text):
            own = macro_name(macro.lower())  # SEED is T5X's RANDOM_SEED
            hint = f"; did you mean {own}?" if own in known else nearest_hint(macro.upper(), known)
            raise UsageError(f"There is no setting {macro}{hint} Settings: {', '.join(known)}.")
