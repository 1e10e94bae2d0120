"""Shell completion: commands, their options and settings, and what some of these may be.

    prompt-tuning completion bash

prints a script for bash; likewise zsh and fish. Each shell reads it from its own place:

    prompt-tuning completion bash > ~/.local/share/bash-completion/completions/prompt-tuning
    prompt-tuning completion zsh > ~/.zfunc/_prompt-tuning    # with ~/.zfunc in fpath
    prompt-tuning completion fish > ~/.config/fish/completions/prompt-tuning.fish

The script holds all names, so that the Tab key never waits for Python. Write it anew after an
update of the package.
"""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence

from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED_MODELS
from prompt_tuning_jax.checkpoints.prompt_file import prebuilt_names
from prompt_tuning_jax.commands import cli
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.gin_files import installed_files
from prompt_tuning_jax.settings.setting import (
    declared,
    kinds_of,
    setting,
    settings,
    settings_of,
)
from prompt_tuning_jax.settings.words import GIN_OPTIONS

SHELLS = ("bash", "zsh", "fish")
# Command ("" before one is given; "checkpoint diff" where it has commands) -> word -> summary.
Words = Mapping[str, Mapping[str, str]]
# "command", of its argument, or "command --option" -> what it may be, if it is not to be a file.
Values = Mapping[str, Sequence[str]]


def collect() -> tuple[Words, Values]:
    """All words and values, from the commands' declared settings."""
    words = {
        "": {name: one.summary for name, one in cli.COMMANDS.items()}
        | dict.fromkeys(cli.OPTIONS, "")
    }
    values: dict[str, Sequence[str]] = {}
    for name, one in cli.COMMANDS.items():
        module = one.load()
        if inner := getattr(module, "COMMANDS", None):
            words[name] = {each: found.summary for each, found in inner.items()} | {"--help": ""}
            configs = {f"{name} {each}": found.config for each, found in inner.items()}
        else:
            configs = {name: module.CONFIG}
        for path, config in configs.items():
            words[path] = {option: about for option, about in _options(config).items()}
            values |= _values(path, config)
    return words, {key: found for key, found in values.items() if found}


def _options(config: type) -> dict[str, str]:
    options = {f"--{name}": declared(field).help for name, field in settings_of(config).items()}
    return options | GIN_OPTIONS | {"--help": "what there is; all explains every setting"}


def _values(path: str, config: type) -> dict[str, Sequence[str]]:
    found: dict[str, Sequence[str]] = {f"{path} --gin_file": installed_files()}
    places: list[str] = []
    for name, field in settings_of(config).items():
        found[f"{path} --{name}"] = known = _known(field)
        if declared(field).positional:
            places += known
    return found | {path: places}


def _known(field: dataclasses.Field) -> Sequence[str]:
    """What is known of the values of a setting."""
    if field.name in ("prompt", "prompts"):
        return prebuilt_names()
    if bool in kinds_of(field.type):
        return ("True", "False")
    known = {"task": tuple(BUNDLED_TASKS), "model": tuple(BUNDLED_MODELS)}
    return declared(field).choices or known.get(field.name, ())


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
    return 0
}
complete -o default -F _prompt_tuning prompt-tuning
"""


def zsh(words: Words, values: Values) -> str:
    """The script for zsh, which shows the descriptions."""
    lines = ["#compdef prompt-tuning", "# made by `prompt-tuning completion zsh`"]
    lines += ["_prompt_tuning_words() {", "    words_found=()", "    case $1 in"]
    for key, found in words.items():
        entries = (shlex.quote(f"{word}:{about}") for word, about in found.items())
        lines.append(f"    {key!r}) words_found=({' '.join(entries)}) ;;")
    lines += ["    esac", "}", "_prompt_tuning_values() {", "    values=()", "    case $1 in"]
    lines += [f"    {key!r}) values=({' '.join(values[key])}) ;;" for key in values]
    return "\n".join([*lines, "    esac", "}"]) + _ZSH


_ZSH = """
_prompt-tuning() {
    local key
    local -a words_found values
    ((CURRENT > 2)) && key=$words[2]
    if ((CURRENT > 3)); then
        _prompt_tuning_words "$key $words[3]"
        (($#words_found)) && key+=" $words[3]"
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
    _describe -t commands command words_found && found=0
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
            inside = f"__prompt_tuning_{'inside' if key else 'at'} {key}"
            if word.startswith("--"):
                chosen = " ".join(values.get(f"{key} {word}", ()))
                options = ("-r", "-a", chosen) if chosen else ()
                lines.append(_rule(inside, "-l", word[2:], "-d", about, *options))
            else:
                lines.append(_rule(f"__prompt_tuning_at {key}", "-f", "-a", word, "-d", about))
        if key in values:
            lines.append(_rule(f"__prompt_tuning_inside {key}", "-a", " ".join(values[key])))
    return "\n".join(lines) + "\n"


def _rule(condition: str, *options: str) -> str:
    return shlex.join(["complete", "-c", cli.PROGRAM, "-n", condition, *options])


_FISH = """\
function __prompt_tuning_inside # these commands are given
    set -l given (commandline -poc)[2..-1]
    string match -q -- "$argv *" "$given "
end
function __prompt_tuning_at # these are given, and nothing else
    set -l given (commandline -poc)[2..-1]
    test "$given" = "$argv"
end"""


@settings
class CompletionConfig:
    """What `prompt-tuning completion` takes."""

    shell: str = setting(help="bash, zsh or fish.", group="data", choices=SHELLS, positional=True)


CONFIG = CompletionConfig


def main(argv: list[str] | None = None) -> None:
    """Prints a shell's script."""
    config = parse(CONFIG, argv, __doc__, "prompt-tuning completion")
    print({"bash": bash, "zsh": zsh, "fish": fish}[config.shell](*collect()), end="")
