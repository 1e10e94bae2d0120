"""Templates: a record's fields -> text, and raw labels -> the words that stand for them.

A template is text with field names in braces, `"premise: {premise} hypothesis: {hypothesis}"`;
`{{` and `}}` are literal braces. A name is looked up in the record and nothing more: there are no
attributes, indices, conversions or format specifications. `{target.text}` reads field `text` of the
object in field `target`.
"""

import difflib
import math
import numbers
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prompt_tuning_jax.errors import spelled

Verbalizers = Mapping[Any, str] | Sequence[str]


class Template:
    """`Template("sentence: {sentence}").render({"sentence": "good"})` is "sentence: good"."""

    def __init__(self, text: str):
        self.text = text
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"Template {text!r}: {error}; write {{{{ for a brace.") from error
        for _, field, spec, conversion in parts:
            if field is not None and (not field or spec or conversion):
                raise ValueError(f"Template {text!r}: braces must hold a field's name and no more.")
        self._parts = [(literal, field) for literal, field, _, _ in parts]

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, in order of appearance."""
        return tuple(dict.fromkeys(field for _, field in self._parts if field is not None))

    @property
    def adds_nothing(self) -> bool:
        """Whether it is a field alone, so that a text is what it makes of it."""
        return [literal for literal, _ in self._parts] == [""]

    def render(
        self, record: Mapping[str, Any], missing: str | None = None, may_drop: bool = True
    ) -> str:
        """The text for a record.

        Args:
          missing, may_drop: what a null counts as; see `field_text`.

        Raises:
          MissingValueError: a field that is null.
          ValueError: a field that is not there, or not text, a number or true/false.
        """
        return "".join(
            literal + (field_text(record, field, missing, may_drop) if field is not None else "")
            for literal, field in self._parts
        )

    def is_empty(self, record: Mapping[str, Any], missing: str | None = None) -> bool:
        """Whether none of the fields has any text, so that the template's own words are alone."""
        return not any(field_text(record, field, missing).strip() for field in self.fields)


class MissingWord(str):
    """A table's cell that holds what programs write for a value that is not there."""

    __slots__ = ()


# As pandas reads them by default, and MySQL's.
# fmt: off
MISSING_WORDS = frozenset((
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "NaT", "None", "n/a", "nan", "null", "\\N",
))
# fmt: on


class MissingValueError(ValueError):
    """A record lacks a value that its template asks for."""


def field_text(
    record: Mapping[str, Any], field: str, missing: str | None = None, may_drop: bool = True
) -> str:
    """A field's value as text.

    Args:
      missing: what a value that is not there counts as: "empty", or "text" where a table's cell
        such as `None` is a word. Otherwise it is refused.
      may_drop: whether leaving the record out is a remedy.

    Raises:
      MissingValueError: the value is null, NaN or the like.
      ValueError: there is no such field, or it is a list or an object.
    """
    value = record.get(field) if field in record else _nested(record, field)
    if isinstance(value, list | dict):
        raise ValueError(
            f"Field {field!r} is a {type(value).__name__}; a template takes text, numbers or "
            "true/false."
        )
    if not is_missing(value) or (missing == "text" and isinstance(value, MissingWord)):
        return label_text(value)
    if missing == "empty":
        return ""
    choices = "drop or empty" if may_drop else "empty"
    if isinstance(value, MissingWord):
        choices = f"{'drop, empty,' if may_drop else 'empty,'} or text if it is a word"
    shown = "null" if value is None else str(value)
    raise MissingValueError(
        f"Field {field!r} is {shown}, which is no text: fill it in, or set {spelled('missing')} to "
        f"{choices}."
    )


def is_missing(value: Any) -> bool:
    """Whether a value is null, no finite number, one of pandas' missing ones, or such a cell."""
    if value is None or isinstance(value, MissingWord):
        return True
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return not math.isfinite(value)
    return type(value).__name__ in ("NAType", "NaTType")


def _nested(record: Mapping[str, Any], field: str) -> Any:
    """The value at a dotted name."""
    value: Any = record
    for name in field.split("."):
        if not isinstance(value, dict) or name not in value:
            near = difflib.get_close_matches(field, map(str, record), 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"No field {field!r}{hint}; the record has {', '.join(map(str, record)) or 'none'}."
            )
        value = value[name]
    return value


def label_text(value: Any) -> str:
    """A raw value as JSON writes it, so that 1, "1", true and "true" name two labels and not four.

    >>> [label_text(value) for value in (True, 1, "1", 0.5)]
    ['true', '1', '1', '0.5']
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def check_unicode(text: str, what: str) -> None:
    """JSON can spell half of a surrogate pair, which no tokenizer accepts."""
    try:
        text.isascii() or text.encode("utf-8")
    except UnicodeEncodeError as error:
        bad = text[error.start]
        raise ValueError(f"{what}: half a character, or not UTF-8: {bad!a}.") from error


def words_of(verbalizers: Verbalizers) -> tuple[str, ...]:
    """The legal answers: the different words of a list, or of a mapping, in order.

    Raises:
      ValueError: no words, or something that is no word; one string is no list of words.
    """
    if isinstance(verbalizers, str) or not verbalizers:
        raise ValueError(
            "Verbalizers must be a list of words or a mapping from raw label to word, not "
            f"{verbalizers!r}."
        )
    words = verbalizers.values() if isinstance(verbalizers, Mapping) else verbalizers
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise ValueError(f"A verbalizer must be a word, not {word!r}.")
    return tuple(dict.fromkeys(words))


class Labels:
    """What a raw label is called in the target: the verbalizers.

    A mapping gives a word for each raw label: `{"0": "negative", "1": "positive"}` (the keys may
    also be numbers or booleans). A list gives the words in order of the labels 0, 1, ..., and a raw
    label that is already one of its words stays as it is.

    Attributes:
      words: as `words_of` gives them.
    """

    def __init__(self, verbalizers: Verbalizers):
        self.words = words_of(verbalizers)
        if isinstance(verbalizers, Mapping):
            self._words = {label_text(raw): word for raw, word in verbalizers.items()}
        else:
            self._words = _indexed(verbalizers)

    def __contains__(self, raw: str) -> bool:
        return raw in self._words

    def word(self, raw: str) -> str:
        """The word for a raw label; ValueError if there is none."""
        if raw not in self._words:
            raise ValueError(
                f"Unknown label {raw!r}; the verbalizers are for {_listed(self._words)}. Add it to "
                "the verbalizers, or correct the record."
            )
        return self._words[raw]


def _indexed(words: Sequence[str]) -> dict[str, str]:
    by_index = {str(index): word for index, word in enumerate(words)}
    for word in words:
        if by_index.get(word, word) != word:
            raise ValueError(
                f"Verbalizers {list(words)}: is {word!r} a word or a label's number? Give a "
                "mapping."
            )
    return by_index | {word: word for word in words}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
