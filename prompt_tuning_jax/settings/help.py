"""What `--help` says of a command's settings, from their declarations."""

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.settings.setting import GROUPS, declared, kinds_of, settings_of
from prompt_tuning_jax.settings.values import takes_several

_MARGIN = 30  # columns for the names
_WIDTH = 100
_FEW = 12  # settings, which the short help explains as well as the long one


def help_text(
    config_class: type, description: str, prog: str, others: Mapping[str, str], part: str = ""
) -> str:
    """The help of a command.

    Args:
      others: options that are no settings, and what they do.
      part: "" for the settings that a first run needs, with the names of all others; "all", or one
        of `GROUPS`, for every setting in full.

    Raises:
      UsageError: there is no such part.
    """
    fields = list(settings_of(config_class).values())
    groups = {name: [f for f in fields if declared(f).group == name] for name in GROUPS}
    groups = {name: found for name, found in groups.items() if found}
    if part and part not in ("all", *groups):
        raise UsageError(f"--help {part}: choose all, {', '.join(groups)}.")
    usage = textwrap.wrap(f"usage: {_usage(prog, fields)}", _WIDTH, subsequent_indent=" " * 7)
    head = [*usage, "", description.strip(), ""]
    if part:
        asked = groups if part == "all" else {part: groups[part]}
        return "\n".join([*head, *_in_full(asked), *_paragraph("gin:", others.items())])
    return "\n".join([*head, *_in_short(prog, fields, groups, others)])


def shown_value(field: dataclasses.Field[Any]) -> str:
    """`30000`, a default; or `<float>`, what may be given where there is none."""
    if field.default is None or field.default is dataclasses.MISSING:
        kinds = (kind for kind in kinds_of(field.type) if kind is not type(None))
        names = {"Mapping": "name=value ...", "Sequence": "words", "str": "text", "Any": "value"}
        names["PathLike"] = ""  # a path is written as text
        shown = (names.get(kind.__name__, kind.__name__) for kind in kinds)
        return f"<{'|'.join(filter(None, dict.fromkeys(shown)))}>"
    return str(field.default)


def _usage(prog: str, fields: Sequence[dataclasses.Field[Any]]) -> str:
    words = []
    for field in fields:
        required, name = field.default is dataclasses.MISSING, field.name.upper()
        if declared(field).positional:
            word = f"{name} ..." if takes_several(field.type) else name
            words.append(word if required else f"[{word}]")
        elif required:
            words.append(f"--{field.name} {name}")
    return " ".join([prog, *words, "[--SETTING value ...]"])


def _in_full(groups: Mapping[str, Sequence[dataclasses.Field[Any]]]) -> list[str]:
    lines = []
    for name, fields in groups.items():
        lines += _paragraph(f"{name}:", ((_option(f), declared(f).help) for f in fields))
    return lines


def _in_short(
    prog: str,
    fields: Sequence[dataclasses.Field[Any]],
    groups: Mapping[str, Sequence[dataclasses.Field[Any]]],
    others: Mapping[str, str],
) -> list[str]:
    """The settings of a first run explained; the others by name, under their groups."""
    first = [f for found in groups.values() for f in found if declared(f).first]
    if len(fields) <= _FEW or not first:
        return [*_in_full(groups), *_paragraph("gin:", others.items())]
    lines = _paragraph("settings to begin with:", ((_option(f), declared(f).help) for f in first))
    names = {
        group: " ".join(f"--{f.name}" for f in found if f not in first)
        for group, found in groups.items()
    }
    lines += _paragraph("and others:", ((g, n) for g, n in names.items() if n), width=10)
    return [*lines, f"`{prog} --help all` explains every one, `--help GROUP` those of a group.", ""]


def _option(field: dataclasses.Field[Any]) -> str:
    return f"--{field.name} {shown_value(field)}"


def _paragraph(title: str, rows: Iterable[tuple[str, Any]], width: int = _MARGIN) -> list[str]:
    return [title, *(line for head, text in rows for line in _entry(head, text, width)), ""]


def _entry(head: str, text: str, width: int) -> list[str]:
    margin = " " * width
    wrapped = textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=margin,
        subsequent_indent=margin,
        break_on_hyphens=False,
        break_long_words=False,
    ) or [margin]
    if len(head) + 4 > width:
        return [f"  {head}", *wrapped]
    return [f"  {head}".ljust(width) + wrapped[0][width:], *wrapped[1:]]
