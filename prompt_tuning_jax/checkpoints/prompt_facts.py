"""The facts that a prompt's file states of itself: what kind of value each of them is."""

import json
import os
from collections.abc import Mapping
from typing import Any

from prompt_tuning_jax.data.templates import check_unicode

_TEXTS = (
    "layout",
    "visibility",
    "base_model",
    "base_model_fingerprint",
    "vocabulary_hash",
    "task",
    "library_version",
    "values_sha256",
)
_COUNTS = ("prompt_length", "emb_dim", "step", "shared_rows")


def checked_facts(facts: dict[str, Any], where: str | os.PathLike, remedy: str) -> dict[str, Any]:
    """The same, where the library can go by them; what else there is may be anything.

    Args:
      where: the file, with which an error begins.
      remedy: the sentence with which it ends.

    Raises:
      ValueError: it names the first fact that is of another kind, or a text is no Unicode.
    """
    check_unicode(json.dumps(facts, ensure_ascii=False), str(where))
    for name, value in facts.items():
        what = _expected(name, value)
        if what is not None and value is not None:
            raise ValueError(f"{where}: {name} must be {what}, not {repr(value)[:80]}. {remedy}")
    return facts


def _expected(name: str, value: Any) -> str | None:
    """What a fact should be, if it is not."""
    if name in _TEXTS and not isinstance(value, str):
        return "text"
    if name in _COUNTS and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        return "a whole number"
    if name == "verbalizers" and not _are_texts(value):
        return "texts, in a list or by label"
    if name == "scores" and not isinstance(value, Mapping):
        return "numbers by name"
    return None


def _are_texts(value: Any) -> bool:
    texts = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, Mapping | list) and all(isinstance(text, str) for text in texts)
