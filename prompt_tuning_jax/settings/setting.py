"""A setting, declared once: its name, type, default, bounds, help, and what it belongs to.

    @settings
    class TrainConfig:
        batch_size: int = setting(32, "examples per step.", group="training", bounds=ROWS)

From that line come the option `--batch_size`, the gin macro `BATCH_SIZE`, the Python keyword, what
`--help` and the Tab key know of it, and the checks, which every new config object makes.
"""

import dataclasses
import difflib
import numbers
import os
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from prompt_tuning_jax.bounds import Bounds
from prompt_tuning_jax.errors import UsageError, spelled

GROUPS = ("data", "model", "prompt", "training", "evaluation", "server", "devices")
PathLike = str | os.PathLike[str]
# Setting -> T5X's macro for it, where that is not just the name in capitals.
T5X_MACROS = {
    "model": "INITIAL_CHECKPOINT_PATH",
    "task": "MIXTURE_OR_TASK_NAME",
    "task_module": "MIXTURE_OR_TASK_MODULE",
    "feature_lengths": "TASK_FEATURE_LENGTHS",
    "seed": "RANDOM_SEED",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is declared of a setting beside its name, type and default.

    Attributes:
      help: one or two sentences.
      group: where `--help` shows it, one of `GROUPS`.
      bounds: of the number that it is, or of those that it holds; every number has them.
      choices: what it may be, beside its default.
      first: whether a first run needs it, so that the short `--help` explains it.
      identity: whether a run can continue only if the value is still the same.
      shared: whether all runs that train together have it in common.
      positional: whether it may be given without its name, in the order of declaration.
    """

    help: str
    group: str
    bounds: Bounds | None = None
    choices: tuple[str, ...] | None = None
    first: bool = False
    identity: bool = False
    shared: bool = False
    positional: bool = False


def setting(default: Any = dataclasses.MISSING, help: str = "", *, group: str, **facts: Any) -> Any:
    """A field of a class of `settings`; without a default it must be given. See `Setting`."""
    if group not in GROUPS:
        raise ValueError(f"A setting's group is one of {', '.join(GROUPS)}, not {group!r}.")
    declared = Setting(" ".join(help.split()), group, **facts)
    return dataclasses.field(default=default, metadata={"setting": declared})


Config = typing.TypeVar("Config")


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting,))
def settings(cls: type[Config]) -> type[Config]:
    """Makes a class of settings: a frozen dataclass that checks its values and documents them."""
    setattr(cls, "__post_init__", check_values)  # noqa: B010  a class that is yet to have one
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    lines = (
        f"  {field.name}: {declared(field).help}"
        for field in dataclasses.fields(typing.cast(Any, made))
    )
    made.__doc__ = "\n".join([(cls.__doc__ or "").rstrip(), "", "Attributes:", *lines])
    return made


def declared(field: dataclasses.Field[Any]) -> Setting:
    return field.metadata["setting"]


def settings_of(config_class: type) -> dict[str, dataclasses.Field[Any]]:
    """Name -> field, in the order of declaration."""
    return {field.name: field for field in dataclasses.fields(config_class)}


def names_where(config_class: type, fact: str) -> list[str]:
    """The settings that have a fact of `Setting`: `names_where(TrainConfig, "identity")`."""
    fields = settings_of(config_class)
    return [name for name, field in fields.items() if getattr(declared(field), fact)]


def macro_name(name: str) -> str:
    """The gin macro of a setting: its name in capitals, or T5X's."""
    return T5X_MACROS.get(name, name.upper())


def setting_name(macro: str) -> str:
    """The setting that a gin macro is for."""
    names = {own: name for name, own in T5X_MACROS.items()}
    return names.get(macro, macro.lower())


def macros(config_class: type) -> dict[str, dataclasses.Field[Any]]:
    """Macro -> the field that it sets."""
    return {macro_name(field.name): field for field in dataclasses.fields(config_class)}


def check_values(config: Any) -> None:
    """Refuses a value of another type, out of its bounds, or that is no choice."""
    for field in dataclasses.fields(config):
        check_value(field, getattr(config, field.name), spelled(field.name))


def check_value(field: dataclasses.Field[Any], value: Any, name: str) -> None:
    """Refuses what `field` cannot be, with a UsageError that calls it `name`."""
    if value is field.default:
        return
    check_type(name, value, field.type)
    if value is None:
        return
    facts = declared(field)
    for place, number in numbers_in(value):
        if facts.bounds is not None:
            facts.bounds.check(f"{name}{place}", number)
    if facts.choices is not None and value not in facts.choices:
        raise UsageError(f"{name} must be one of {', '.join(facts.choices)}, got {value!r}.")
    may_be_path = {os.PathLike, Any} & set(kinds_of(field.type))
    if may_be_path and isinstance(value, str) and not value:  # it would be the current directory
        raise UsageError(f"{name} is empty: give it a value, or leave it out.")


def numbers_in(value: Any) -> Iterator[tuple[str, Any]]:
    """(where it stands, the number): a value that is one, or those of a list or mapping."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        yield "", value
    elif isinstance(value, Mapping):
        yield from ((f" {name}", x) for name, x in value.items() if isinstance(x, numbers.Real))
    elif isinstance(value, Sequence):
        yield from (("", x) for x in value if isinstance(x, numbers.Real))


def check_type(name: str, value: Any, annotation: Any) -> None:
    """Refuses a number that is text, and the like; so also the numbers of a list or mapping."""
    kinds = kinds_of(annotation)
    if Any in kinds:
        return
    legal = tuple({int: numbers.Integral, float: numbers.Real}.get(kind, kind) for kind in kinds)
    text_as_list = isinstance(value, str) and str not in kinds
    flag_as_number = isinstance(value, bool) and bool not in kinds
    if not isinstance(value, legal) or text_as_list or flag_as_number:
        what = " or ".join(dict.fromkeys(map(kind_name, kinds)))
        raise UsageError(f"{name} must be {what}, not {value!r}.")
    for kind in (Mapping, Sequence):
        if isinstance(value, kind) and not isinstance(value, str):
            of_each = element_type(annotation, kind)
            items = value.items() if isinstance(value, Mapping) else (("", x) for x in value)
            for place, each in items if of_each in (int, float) else ():
                check_type(f"{name} {place}".rstrip(), each, of_each)


def kinds_of(annotation: Any) -> tuple[Any, ...]:
    """The plain types that a value may have: (Mapping, NoneType) of `Mapping[str, int] | None`."""
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    kinds = typing.get_args(annotation) if union else (annotation,)
    return tuple(typing.get_origin(kind) or kind for kind in kinds)


def kind_name(kind: type) -> str:
    """What a kind of value is called where it is written."""
    names = {"NoneType": "None", "Mapping": "a mapping", "Sequence": "a list", "PathLike": "a path"}
    names |= {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "text"}
    return names.get(kind.__name__, kind.__name__)


def nearest_hint(name: str, known: Collection[str]) -> str:
    """`; did you mean X?`, or a full stop where nothing is near."""
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else "."


def element_type(annotation: Any, kind: type) -> Any:
    """What the values of a mapping or a list are: int of `Mapping[str, int] | None`."""
    for part in typing.get_args(annotation) or ():
        if typing.get_origin(part) is kind:
            return typing.get_args(part)[-1]
    if typing.get_origin(annotation) is kind:
        return typing.get_args(annotation)[-1]
    return Any
