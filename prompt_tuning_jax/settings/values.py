"""Words of a command line as the value of a setting, by the type that it is declared with.

    --train_steps 1000                        int
    --learning_rate 0.3                       float
    --pack, --pack True, --no-pack            bool
    --columns sentence label                  a list
    --verbalizers 0=negative 1=positive       a mapping, or, without "=", a list
    --feature_lengths inputs=512 targets=16   a mapping to int
    --runs slow.learning_rate=0.1 fast        settings of several runs
    --trainable "[('encoder/prompt/prompt', @adam())]"   what gin understands, with `@` or `%`

A Python literal is understood too, wherever words may be a list or a mapping.
"""

import ast
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning_jax.errors import UsageError, spelled
from prompt_tuning_jax.settings.setting import (
    element_type,
    kind_name,
    kinds_of,
    nearest_hint,
    settings_of,
)

REFERENCE = re.compile(r"[@%][A-Za-z_]")  # of gin's: `@uniform()`, `%PROMPT_LENGTH`
_REFERENCE_INSIDE = re.compile(r"(^|[\[({,:\s])[@%][A-Za-z_]")
_BRACKETS = ("[", "(", "{")


@dataclasses.dataclass(frozen=True)
class GinExpression:
    """A value that refers to something of gin's: `@uniform()`, `%PROMPT_LENGTH`."""

    text: str

    def __repr__(self) -> str:
        return self.text


def takes_several(annotation: Any) -> bool:
    """Whether more than one word may follow the option."""
    return bool({Mapping, Sequence} & set(kinds_of(annotation)))


def read(name: str, annotation: Any, words: Sequence[str]) -> Any:
    """The value that the words mean.

    Raises:
      UsageError: they mean no value of this type.
    """
    kinds, single = kinds_of(annotation), words[0] if len(words) == 1 else ""
    if single == "None" and {type(None), Any} & set(kinds):
        return None
    if _refers(single, kinds):
        return GinExpression(single)
    if not takes_several(annotation):
        return _read_word(name, kinds, words[0])
    if single[:1] in _BRACKETS:
        return _read_literal(name, single, kinds)
    if Mapping in kinds and any("=" in word for word in words):
        return _read_pairs(name, kinds_of(element_type(annotation, Mapping)), words)
    if len(words) == 1 and str in kinds:
        return single
    if Sequence in kinds:
        elements = kinds_of(element_type(annotation, Sequence))
        return [_read_word(name, elements, word) for word in words]
    raise UsageError(f"{spelled(name)} takes NAME=VALUE, not {' '.join(words)!r}.")


def _refers(word: str, kinds: Sequence[Any]) -> bool:
    """A word for gin; text such as "@home" stays text where the setting is only text."""
    if word[:1] in _BRACKETS:
        return bool(_REFERENCE_INSIDE.search(word)) and bool({Sequence, Mapping} & set(kinds))
    return bool(REFERENCE.match(word)) and bool(set(kinds) - {str, type(None)})


def _read_pairs(name: str, kinds: Sequence[Any], words: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE words; a name may not come twice."""
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(
                f"{spelled(name)}: {word!r} has no '=', as the others do: write NAME=VALUE, and "
                "what is not for it before it."
            )
        if key in pairs:
            raise UsageError(f"{spelled(name)} gives {key!r} twice.")
        pairs[key] = _read_word(f"{name} {key}", kinds, value)
    return pairs


def _read_word(name: str, kinds: Sequence[Any], word: str) -> Any:
    if bool in kinds:
        if word.lower() not in ("true", "false"):
            raise UsageError(f"{spelled(name)} must be True or False, not {word!r}.")
        return word.lower() == "true"
    for kind in (int, float):
        if kind in kinds:
            try:
                value = kind(word)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise UsageError(f"{spelled(name)} must be {kind_name(kind)}, not {word!r}.")
            return value
    return word


def _read_literal(name: str, text: str, kinds: Sequence[Any]) -> Any:
    """A Python list or mapping; where it is neither, text such as "{text}" may be a template."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = None
    if isinstance(value, Mapping | list | tuple):
        return value
    if str in kinds:
        return text
    raise UsageError(f"{spelled(name)}: {text} is no Python list or mapping; strings need quotes.")


def read_runs(name: str, words: Sequence[str], config_class: type) -> Any:
    """`RUN.SETTING=VALUE` words, or `RUN` alone, as the settings of each run."""
    fields = settings_of(config_class)
    if len(words) == 1 and (words[0] == "None" or words[0][0:1] in ("{", "@", "%")):
        return read(name, fields[name].type, words)
    runs: dict[str, dict[str, Any]] = {}
    for word in words:
        head, equals, value = word.partition("=")
        run, _, setting = head.rpartition(".") if equals else (head, "", "")
        own = runs.setdefault(run, {})
        if not equals and head.rpartition(".")[2] not in fields:
            continue
        if not run or not equals:
            raise UsageError(f"{spelled(name)} takes RUN.SETTING=VALUE or RUN, not {word!r}.")
        setting = setting.replace("-", "_")
        if setting not in fields:
            hint = nearest_hint(setting, fields)
            raise UsageError(f"{spelled(name)} {word}: there is no setting {setting}{hint}")
        if setting in own:
            raise UsageError(f"{spelled(name)} gives {run}.{setting} twice.")
        try:
            own[setting] = read(setting, fields[setting].type, [value])
        except UsageError as error:
            raise UsageError(f"{spelled(name)} {word}: {error}") from error
    return runs
