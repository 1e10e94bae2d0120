"""What `--help` says of a command's settings: each macro, its default and its description.

The descriptions are those of the config class's docstring, so that they are written once.
"""

import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any

_HEAD = """\
settings, each as --gin.NAME=value, or as a line NAME = value of a gin file (where a string needs
quotes), with the default or else, in brackets, the kind of value:
"""
_MARGIN = 28  # columns for the names


def settings_help(macros: Mapping[str, dataclasses.Field[Any]], config_class: type) -> str:
    """All settings, a paragraph for the command's own and one for each class it inherits from.

    Args:
      macros: macro -> field of `config_class`.
    """
    described = descriptions(config_class)
    paragraphs = [_HEAD]
    for kind in config_class.__mro__[:-1]:
        own = inspect.get_annotations(kind)
        lines = (
            _line(f"{macro}={shown_value(field)}", described.get(field.name, ""))
            for macro, field in macros.items()
            if field.name in own
        )
        paragraphs.append("\n".join(lines) + "\n")
    return "\n".join(paragraphs)


def descriptions(config_class: type) -> dict[str, str]:
    """Field -> its text in the `Attributes` section of its class's docstring."""
    found: dict[str, str] = {}
    for kind in reversed(config_class.__mro__):
        doc = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
        section = re.split(r"\n(?=\S)", doc.partition("Attributes:\n")[2])[0]
        for entry in re.split(r"^  (?=\S)", section, flags=re.MULTILINE)[1:]:
            names, _, text = entry.partition(": ")
            text = re.sub(r"^\([A-Z_]+\) ", "", " ".join(text.split()))  # its macro, if another
            found |= dict.fromkeys(names.split(", "), text)
    return found


def shown_value(field: dataclasses.Field[Any]) -> str:
    """`30000`, a default; or `<float>`, what may be given where the default is None."""
    if field.default is None:
        return f"<{_kinds(field.type)}>"
    name = getattr(field.default, "__name__", None)  # float32, a type
    return name or str(field.default)


def _kinds(annotation: Any) -> str:
    """`float`, or `dict|list`: what a plain value of this annotation is called."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        kinds = (kind for kind in typing.get_args(annotation) if kind is not types.NoneType)
        return "|".join(map(_kinds, kinds))
    kind = typing.get_origin(annotation) or annotation
    names = {"Mapping": "dict", "Sequence": "list", "Any": "value"}
    return names.get(kind.__name__, kind.__name__)


def _line(head: str, text: str) -> str:
    margin = " " * _MARGIN
    lines = textwrap.wrap(
        text, 100, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False
    ) or [margin]
    if len(head) + 4 > _MARGIN:
        return "\n".join([f"  {head}", *lines])
    return "\n".join([f"  {head}".ljust(_MARGIN) + lines[0][_MARGIN:], *lines[1:]])
