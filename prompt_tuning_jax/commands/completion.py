"""Shell completion: commands, their options and settings, and what some of these may be.

    prompt-tuning completion bash

prints a script for bash; likewise zsh and fish. Each shell reads it from its own place:

    prompt-tuning completion bash > ~/.local/share/bash-completion/completions/prompt-tuning
    prompt-tuning completion zsh > ~/.zfunc/_prompt-tuning    # with ~/.zfunc in fpath
    prompt-tuning completion fish > ~/.config/fish/completions/prompt-tuning.fish

The script holds all names, so that the Tab key never waits for Python. Write it anew after an
update of the package.
"""

import argparse
import importlib
import shlex
from collections.abc import Mapping, Sequence

from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.checkpoints.prompt_file import prebuilt_names
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.commands.cli import COMMANDS, OPTIONS, PROGRAM
from prompt_tuning_jax.layout import LAYOUTS
from prompt_tuning_jax.settings.help import descriptions
from prompt_tuning_jax.settings.macros import macros as macros_of

SHELLS = ("bash", "zsh", "fish")
# Command ("" before one is given; "checkpoint diff" where it has commands) -> word -> summary.
# A word that ends in "=" waits for its value.
Words = Mapping[str, Mapping[str, str]]
# "command", of its argument, or "command --option" -> what it may be, if it is not to be a file.
Values = Mapping[str, Sequence[str]]


def collect() -> tuple[Words, Values]:
    """All words and values, from the commands' own parsers and settings."""
    words = {"": {name: one.summary for name, one in COMMANDS.items()} | dict.fromkeys(OPTIONS, "")}
    values = {}
    for name, one in COMMANDS.items():
        module = importlib.import_module(f"prompt_tuning_jax.{one.module}")
        if one.config is not None:
            of_one = _gin_command(name, getattr(module, one.config))
        else:
            of_one = _parsed_command(name, module.parser())
        words |= of_one[0]
        values |= of_one[1]
    return words, {key: found for key, found in values.items() if found}


def _gin_command(name: str, config_class: type) -> tuple[Words, Values]:
    about, macros = descriptions(config_class), macros_of(config_class)
    words = {"--gin_file=": "settings from a file", "--gin_search_paths=": "", "--help": ""}
    values = {f"{name} --gin_file": command.installed_gin_files()}
    for macro, field in macros.items():
        words[f"--gin.{macro}="] = about.get(field.name, "")
        values[f"{name} --gin.{macro}"] = _known(field.name, isinstance(field.default, bool))
    return {name: words}, values


def _parsed_command(path: str, parser: argparse.ArgumentParser) -> tuple[Words, Values]:
    """Of a command with options, and of the commands that it has."""
    own, values = {}, {}
    for action in parser._actions:
        if isinstance(action.choices, dict):  # commands
            own |= {each.dest: each.help or "" for each in action._choices_actions}
        elif action.option_strings:
            own[action.option_strings[-1]] = action.help or ""
            values[f"{path} {action.option_strings[-1]}"] = action.choices or _known(action.dest)
        else:
            known = action.choices or _known(action.dest.removesuffix("s"))
            values[path] = [*values.get(path, ()), *known]
    words = {path: own}
    for name, each in _nested(parser).items():
        inner = _parsed_command(f"{path} {name}", each)
        words |= inner[0]
        values |= inner[1]
    return words, values


def _nested(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    found = (each.choices for each in parser._actions if isinstance(each.choices, dict))
    return next(found, {})


def _known(name: str, is_flag: bool = False) -> Sequence[str]:
    """What is known of the values of a field or option by its name."""
    if name == "prompt":
        return prebuilt_names()
    known = {"task": tuple(BUNDLED_TASKS), "prompt_layout": LAYOUTS, "model": ("bundled",)}
    return ("True", "False") if is_flag else known.get(name, ())


def bash(words: Words, values: Values) -> str:
    """The script for bash: two tables, and the function that looks things up in them."""
    tables = (("words", {key: list(found) for key, found in words.items()}), ("values", values))
    lines = ["# bash completion of prompt-tuning, made by `prompt-tuning completion bash`"]
    for name, table in tables:
        lines += [f"_prompt_tuning_{name}() {{", "    case $1 in"]
        lines += [f"    {key!r}) echo {shlex.quote(' '.join(table[key]))} ;;" for key in table]
        lines += ["    esac", "}"]
    return "\n".join(lines) + _BASH


_BASH = """
_prompt_tuning() {
    # the line is split anew: bash itself splits words at "=" and ":" too
    local line=${COMP_LINE:0:COMP_POINT} words last key current option found before=
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    last=$((${#words[@]} - 1))
    ((last > 1)) && key=${words[1]}
    ((last > 2)) && [[ -n $(_prompt_tuning_words "$key ${words[2]}") ]] && key+=" ${words[2]}"
    current=${words[last]}
    if [[ $current == --*=* ]]; then
        option=${current%%=*}
        [[ $COMP_WORDBREAKS == *=* ]] || before=$option=
        current=${current#*=}
        found=$(_prompt_tuning_values "$key $option")
    else
        found=$(_prompt_tuning_values "$key ${words[last - 1]}")
        [[ -n $found ]] ||
            found="$(_prompt_tuning_words "$key") $(_prompt_tuning_values "$key")"
    fi
    COMPREPLY=($(compgen -P "$before" -W "$found" -- "$current"))
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2> /dev/null
    return 0
}
complete -o default -F _prompt_tuning prompt-tuning
"""


def zsh(words: Words, values: Values) -> str:
    """The script for zsh, which shows the descriptions."""
    lines = ["#compdef prompt-tuning", "# made by `prompt-tuning completion zsh`"]
    lines += ["_prompt_tuning_words() {", "    settings=() others=()", "    case $1 in"]
    for key, found in words.items():
        lines.append(f"    {key!r})")
        for array, is_setting in (("settings", True), ("others", False)):
            entries = [
                f"{w}:{about}" for w, about in found.items() if w.endswith("=") is is_setting
            ]
            lines.append(f"        {array}=({' '.join(map(shlex.quote, entries))})")
        lines.append("        ;;")
    lines += ["    esac", "}", "_prompt_tuning_values() {", "    values=()", "    case $1 in"]
    lines += [f"    {key!r}) values=({' '.join(values[key])}) ;;" for key in values]
    return "\n".join([*lines, "    esac", "}"]) + _ZSH


_ZSH = """
_prompt-tuning() {
    local key
    local -a settings others values
    ((CURRENT > 2)) && key=$words[2]
    if ((CURRENT > 3)); then
        _prompt_tuning_words "$key $words[3]"
        (($#others)) && key+=" $words[3]"
    fi
    if [[ $words[CURRENT] == --*=* ]]; then
        _prompt_tuning_values "$key ${words[CURRENT]%%=*}"
        compset -P 1 '*='
        compadd -a values || _files
        return
    fi
    _prompt_tuning_values "$key $words[CURRENT-1]"
    if (($#values)); then
        compadd -a values || _files
        return
    fi
    _prompt_tuning_words "$key"
    _prompt_tuning_values "$key"
    local found=1
    _describe -t commands command others && found=0
    (($#settings)) && _describe -t settings setting settings -S '' && found=0
    compadd -a values && found=0
    ((found)) && _files
}
# a file of fpath is run as the function at the first use; a file that is sourced is not
if [[ $funcstack[1] == _prompt-tuning ]]; then
    _prompt-tuning "$@"
else
    compdef _prompt-tuning prompt-tuning
fi
"""


def fish(words: Words, values: Values) -> str:
    """The script for fish: a line for each word, and for the values of each option."""
    lines = ["# fish completion of prompt-tuning, made by `prompt-tuning completion fish`", _FISH]
    for key, found in words.items():
        for word, about in found.items():
            chosen = ["-a", " ".join(values.get(f"{key} {word.rstrip('=')}", ()))]
            inside = f"__prompt_tuning_{'inside' if key else 'at'} {key}"
            if word.endswith("="):
                lines.append(_rule(f"__prompt_tuning_naming {key}", "-a", word, "-d", about))
                if chosen[1]:
                    lines.append(_rule(f"__prompt_tuning_valuing {key}", "-l", word[2:-1], *chosen))
            elif word.startswith("--"):
                options = ("-r", *chosen) if chosen[1] else ()
                lines.append(_rule(inside, "-l", word[2:], "-d", about, *options))
            else:
                lines.append(_rule(f"__prompt_tuning_at {key}", "-f", "-a", word, "-d", about))
        if key in values:
            lines.append(_rule(f"__prompt_tuning_inside {key}", "-a", " ".join(values[key])))
    return "\n".join(lines) + "\n"


def _rule(condition: str, *options: str) -> str:
    return shlex.join(["complete", "-c", PROGRAM, "-n", condition, *options])


_FISH = """\
function __prompt_tuning_inside # these commands are given
    set -l given (commandline -poc)[2..-1]
    string match -q -- "$argv *" "$given "
end
function __prompt_tuning_at # these are given, and nothing else
    set -l given (commandline -poc)[2..-1]
    test "$given" = "$argv"
end
function __prompt_tuning_valuing
    __prompt_tuning_inside $argv; and string match -q -- "--*=*" (commandline -ct)
end
function __prompt_tuning_naming
    __prompt_tuning_inside $argv; and not string match -q -- "--*=*" (commandline -ct)
end"""


def parser() -> argparse.ArgumentParser:
    one = command.Parser(description=__doc__)
    one.add_argument("shell", choices=SHELLS)
    return one


def main(argv: list[str] | None = None) -> None:
    """Prints a shell's script."""
    shell = parser().parse_args(argv).shell
    print({"bash": bash, "zsh": zsh, "fish": fish}[shell](*collect()), end="")


if __name__ == "__main__":
    command.run(main)
