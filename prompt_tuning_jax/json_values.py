"""Values as JSON has them, and JSON that others wrote."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Arrays and tuples as lists, numpy's and JAX's numbers as Python's, bytes as text.

    NaN and infinity, which JSON lacks, become None.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_object(text: str | bytes, where: str | os.PathLike, remedy: str) -> dict[str, Any]:
    """The JSON object in a text that another program or a person wrote.

    Args:
      where: the file, and the line if it is one of several, with which an error begins.
      remedy: the sentence with which an error ends: what to do.

    Raises:
      ValueError: it is not UTF-8 or not JSON, or not an object.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in error.doc.rstrip("\n") else ""
        place = f"{error.msg}, {line}column {error.colno}"
        raise ValueError(f"{where} is not valid JSON ({place}). {remedy}") from error
    except (ValueError, RecursionError) as error:  # bytes that are no text; nested too deeply
        raise ValueError(f"{where} is not valid JSON ({error}). {remedy}") from error
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise ValueError(f"{where} holds a {kind}, not a JSON object. {remedy}")
    return found
