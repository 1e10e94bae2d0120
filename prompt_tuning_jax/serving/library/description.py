"""What is known of a served prompt without its values, and what it may be called."""

import dataclasses
import re
from typing import Any

from prompt_tuning_jax.checkpoints.prompt_file import PromptHeader
from prompt_tuning_jax.data.templates import Template, check_unicode, words_of
from prompt_tuning_jax.tuned_prompt import TunedPrompt

BASE = "base"
# What stands after a prompt's name in a URL.
_RESERVED = ("nearest", "reload")
_LONGEST = 200
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Description:
    """What is known of a prompt, an ensemble, or the model alone.

    Attributes:
      name: by which requests choose it.
      length, width: of its values [length, width]; of an ensemble, its longest member's length.
      layout, visibility: as a `TunedPrompt` has them; of an ensemble, None where members differ.
      task: what it was tuned for.
      labels: its verbalizers, which are ranked where a request gives none.
      input_template, missing: what makes a text of a record, and what a null counts as there.
      members: of an ensemble, their names.
      source: where its file is, below the folder.
      uploaded: whether it was sent to a server, which may then replace and delete it.
    """

    name: str
    length: int = 0
    width: int = 0
    layout: str | None = None
    visibility: str | None = None
    task: str | None = None
    labels: tuple[str, ...] | None = None
    input_template: str | None = None
    missing: str | None = None
    members: tuple[str, ...] = ()
    source: str | None = None
    uploaded: bool = False


def described(name: str, header: PromptHeader | TunedPrompt, source: str) -> Description:
    """What a prompt's file says.

    Raises:
      ValueError: its facts are not what the server can go by.
    """
    facts = header.metadata
    template, missing = facts.get("input_template"), facts.get("missing")
    for fact, value in (("input_template", template), ("missing", missing)):
        if not isinstance(value, str | None):
            raise ValueError(f"{fact} must be text, not {repr(value)[:80]}.")
    if template is not None:
        check_unicode(template, "input_template")
        Template(template)
    words = facts.get("verbalizers")
    labels = words_of(words) if words else None
    for label in labels or ():
        check_unicode(label, "a verbalizer")
    return Description(
        name=name,
        length=header.shape[0],
        width=header.shape[1],
        layout=header.layout,
        visibility=header.visibility,
        task=facts.get("task"),
        labels=labels,
        input_template=template or None,
        missing=None if missing == "drop" else missing,  # every record gets an answer
        source=source,
        uploaded=facts.get("uploaded") is True,
    )


def of_members(name: str, members: list[Description], source: str) -> Description:
    """What is common to an ensemble's members."""

    def common(fact: str) -> Any:
        found = {getattr(one, fact) for one in members}
        return found.pop() if len(found) == 1 else None

    same_labels = len({frozenset(one.labels or ()) for one in members}) == 1
    return Description(
        name=name,
        length=max(one.length for one in members),
        width=members[0].width,
        layout=common("layout"),
        visibility=common("visibility"),
        task=common("task"),
        labels=members[0].labels if same_labels else None,
        input_template=common("input_template"),
        missing=common("missing"),
        members=tuple(one.name for one in members),
        source=source,
        uploaded=True,
    )


def check_name(name: str, *, parts: int | None = None) -> None:
    """Refuses what cannot be a prompt's name: in a URL, and in a folder that it must not leave.

    Args:
      parts: how many parts with slashes between them it may have; None for any number.

    Raises:
      ValueError: one sentence that says what a name is.
    """
    each = name.split("/")
    is_one = len(name) <= _LONGEST and all(_PART.fullmatch(part) for part in each)
    if not is_one or (parts is not None and len(each) > parts):
        between = ", with slashes between parts," if parts is None else ""
        raise ValueError(
            f"{name[:_LONGEST]!a} cannot be a prompt's name: it has at most {_LONGEST} "
            f"letters, digits and ._+-{between} and begins with a letter or a digit."
        )
    if name == BASE or each[-1] in _RESERVED:
        raise ValueError(f"{name!r} cannot be a prompt's name: it means something else here.")
