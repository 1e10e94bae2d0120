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
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning_jax.errors import UsageError, spelled
from prompt_tuning_jax.settings.setting import element_type, kinds_of, nearest_hint, settings_of


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
    kinds = kinds_of(annotation)
    if len(words) == 1 and _refers(words[0], kinds):
        return GinExpression(words[0])
    if not takes_several(annotation):
        return _read_word(name, kinds, words[0])
    if len(words) == 1 and words[0][:1] in ("{", "[", "("):
        return _read_literal(name, words[0], kinds)
    if Mapping in kinds and all("=" in word for word in words):
        values = element_type(annotation, Mapping)
        pairs = (word.partition("=") for word in words)
        return {key: _read_word(name, kinds_of(values), value) for key, _, value in pairs}
    if len(words) == 1 and str in kinds:
        return words[0]
    if Sequence in kinds:
        values = element_type(annotation, Sequence)
        return [_read_word(name, kinds_of(values), word) for word in words]
    raise UsageError(f"{spelled(name)} takes NAME=VALUE, not {' '.join(words)!r}.")


def _refers(word: str, kinds: Sequence[Any]) -> bool:
    """A word for gin; text such as "@home" stays text where the setting is only text."""
    if word[:1] in ("[", "(", "{"):
        return "@" in word and Sequence in kinds
    return word[:1] in ("@", "%") and bool(set(kinds) - {str, type(None)})


def _read_word(name: str, kinds: Sequence[Any], word: str) -> Any:
    if word == "None" and type(None) in kinds:
        return None
    if bool in kinds:
        if word.lower() not in ("true", "false"):
            raise UsageError(f"{spelled(name)} must be True or False, not {word!r}.")
        return word.lower() == "true"
    for kind, what in ((int, "a whole number"), (float, "a number")):
        if kind in kinds:
            try:
                return kind(word)
            except ValueError as error:
                raise UsageError(f"{spelled(name)} must be {what}, not {word!r}.") from error
    return word


def _read_literal(name: str, text: str, kinds: Sequence[Any]) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError) as error:
        if str in kinds or (Sequence in kinds and text[0] == "{"):  # "{text}" is a template
            return text if str in kinds else [text]
        raise UsageError(f"{spelled(name)}: {text} is no Python list or mapping.") from error


def read_runs(name: str, words: Sequence[str], config_class: type) -> dict[str, dict[str, Any]]:
    """`RUN.SETTING=VALUE` words, or `RUN` alone, as the settings of each run."""
    if len(words) == 1 and words[0].startswith("{"):
        return _read_literal(name, words[0], kinds_of(Mapping))
    fields = settings_of(config_class)
    runs: dict[str, dict[str, Any]] = {}
    for word in words:
        head, equals, value = word.partition("=")
        run, dot, setting = head.rpartition(".") if equals else (head, "", "")
        own = runs.setdefault(run, {})
        if not equals:
            continue
        setting = setting.replace("-", "_")
        if not dot or setting not in fields:
            hint = nearest_hint(setting, fields)
            raise UsageError(f"{spelled(name)} {word}: there is no setting {setting}{hint}")
        own[setting] = read(setting, fields[setting].type, [value])
    return runs
