"""The words of a command line, under the settings that they belong to.

TASK                          a word by itself is for the next setting that needs no name
--batch_size 32               one word follows, or stands after "="; `--batch-size` is the same
--columns sentence label      several follow where the setting is a list or a mapping, up to the
                              next option, or to "--"
--pack, --no-pack             True or False, which may also follow

argparse is not for this: it takes values such as "-1=no" or "- {text}" for options.
"""

import collections
import dataclasses
import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.settings.setting import declared, kinds_of
from prompt_tuning_jax.settings.values import REFERENCE, takes_several

GIN_OPTIONS = {
    "--gin_file": "settings from a file: a path, or an installed experiments/NAME.gin; repeatable",
    "--gin_search_paths": "where else to look for gin files, with commas between them",
}
_OPTION = re.compile(r"--[^\s=]+(=|$)")
# What follows `--pack` as its value, the illegal ones too; any other word is not for it.
_YES_OR_NO = ("true", "false", "yes", "no", "on", "off", "1", "0")
Fields = Mapping[str, dataclasses.Field[Any]]


@dataclasses.dataclass
class Words:
    """What a command line gives.

    Attributes:
      settings: name -> its words.
      bindings: the arguments `--gin.NAME=value`.
    """

    settings: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    gin_files: list[str] = dataclasses.field(default_factory=list)
    search_paths: list[str] = dataclasses.field(default_factory=list)
    bindings: list[str] = dataclasses.field(default_factory=list)

    def add(self, name: str, words: list[str]) -> None:
        if name in self.settings:
            raise UsageError(f"--{name} is given twice.")
        self.settings[name] = words


def split(argv: Sequence[str], fields: Fields) -> Words:
    """Sorts the words of a command line.

    Raises:
      UsageError: an option is unknown (the nearest one is suggested), without its value, or given
        twice; or there is no place for a word.
    """
    found, rest = Words(), collections.deque(argv)
    unnamed: list[str] = []
    while rest:
        word = rest.popleft()
        if word == "--":
            unnamed += rest
            break
        if word.startswith("--gin."):
            if "=" not in word:
                raise UsageError(f"{word} needs a value: {word}=VALUE.")
            found.bindings.append(word)
        elif word.startswith("-") and word != "-":
            _take(word, rest, fields, found)
        else:
            unnamed.append(word)
    _place(unnamed, fields, found)
    return found


def _take(word: str, rest: collections.deque[str], fields: Fields, found: Words) -> None:
    """Takes an option's words off the rest."""
    option, equals, value = word.partition("=")
    name = option.removeprefix("--").replace("-", "_")
    if f"--{name}" in GIN_OPTIONS:
        value = value if equals else _next(option, rest)
        if name == "gin_file":
            found.gin_files.append(value)
        else:
            found.search_paths += filter(None, value.split(","))
        return
    field = fields.get(name)
    negated = fields.get(name.removeprefix("no_"))
    if field is None and negated and bool in kinds_of(negated.type) and not equals:
        found.add(negated.name, ["False"])
    elif field is None or not option.startswith("--"):
        raise UsageError(f"There is no option {option}{_hint(name, fields)}")
    elif bool in kinds_of(field.type):
        follows = bool(rest) and (rest[0].lower() in _YES_OR_NO or REFERENCE.match(rest[0]))
        found.add(name, [value] if equals else [rest.popleft()] if follows else ["True"])
    else:
        words = [value if equals else _next(option, rest)]
        while takes_several(field.type) and _goes_on(rest, only_pairs=bool(equals)):
            words.append(rest.popleft())
        found.add(name, words)


def _next(option: str, rest: collections.deque[str]) -> str:
    if not rest or _OPTION.match(rest[0]):
        raise UsageError(f"{option} needs a value; one that begins with -- goes after {option}=.")
    return rest.popleft()


def _goes_on(rest: collections.deque[str], only_pairs: bool) -> bool:
    """Whether the next word is one more; after `--option=WORD` only NAME=VALUE is."""
    more = bool(rest) and rest[0] != "--" and not _OPTION.match(rest[0])
    return more and (not only_pairs or "=" in rest[0])


def _hint(name: str, fields: Collection[str]) -> str:
    options = [*(f"--{each}" for each in fields), *GIN_OPTIONS, "--help"]
    nearest = difflib.get_close_matches(f"--{name.lower()}", options, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else "; --help all shows what there is."


def _place(unnamed: Sequence[str], fields: Fields, found: Words) -> None:
    """Words without an option go to the settings that need none, in their order."""
    for word in unnamed:
        name, equals, value = word.partition("=")
        if equals and name.lower() in fields:
            raise UsageError(f"There is no place for {word!r}: write --{name.lower()}={value}")
    for name, field in fields.items():
        if declared(field).positional and unnamed:
            count = len(unnamed) if takes_several(field.type) else 1
            found.add(name, list(unnamed[:count]))
            unnamed = unnamed[count:]
    if unnamed:
        raise UsageError(f"There is no place for {unnamed[0]!r}; --help shows what there is.")
