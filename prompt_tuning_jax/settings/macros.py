"""Settings as gin macros: their names, their kinds and bounds, and macros that nothing uses."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import gin

# Field -> T5X's macro, where it is not just the field in capitals.
T5X_MACROS = {
    "model": "INITIAL_CHECKPOINT_PATH",
    "task": "MIXTURE_OR_TASK_NAME",
    "task_module": "MIXTURE_OR_TASK_MODULE",
    "feature_lengths": "TASK_FEATURE_LENGTHS",
    "seed": "RANDOM_SEED",
}


def macro_name(field: str) -> str:
    """The gin macro of a config field."""
    return T5X_MACROS.get(field, field.upper())


def macros(config_class: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """Macro -> the config's field that it sets."""
    return {macro_name(field.name): field for field in dataclasses.fields(config_class)}


def check_least(config: Any, least: Mapping[str, int]) -> None:
    """Refuses settings below the least number that they may be; None is no number.

    Args:
      least: field -> that number.
    """
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and value < bound:
            raise ValueError(f"{macro_name(name)} must be at least {bound}, got {value}.")


class UsageError(ValueError):
    """What the command line or a gin file says cannot be understood."""


def check_type(macro: str, value: Any, annotation: Any) -> None:
    """Refuses a number that is text, and the like; what a list or mapping holds is not checked."""
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    kinds = typing.get_args(annotation) if union else (annotation,)
    kinds = tuple(typing.get_origin(kind) or kind for kind in kinds)
    if Any in kinds:
        return
    legal = (*kinds, int) if float in kinds else kinds
    text_as_list = isinstance(value, str) and str not in kinds
    if not isinstance(value, legal) or text_as_list:
        raise UsageError(f"{macro} must be {' or '.join(map(_kind_name, kinds))}, not {value!r}.")


def _kind_name(kind: type) -> str:
    """What a setting's kind of value is called where it is written."""
    names = {"NoneType": "None", "Mapping": "a mapping", "Sequence": "a list"}
    return names.get(kind.__name__, kind.__name__)


def given_macros() -> list[str]:
    """Those that gin has a value for, in the order of their names."""
    return re.findall(r"^(\w+) =", gin.config_str(), re.MULTILINE)


def check_known(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuses a macro that is neither known nor used by any of gin's bindings.

    Raises:
      ValueError: it names the macro and the nearest known one.
    """
    known, text = list(known), gin.config_str()
    for macro in given:
        if macro not in known and not re.search(rf"%{macro}\b", text):
            nearest = difflib.get_close_matches(macro.upper(), known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else "."
            raise ValueError(f"There is no setting {macro}{hint} Settings: {', '.join(known)}.")
