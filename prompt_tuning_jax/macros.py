"""Gin macros that nothing uses, which is what a misspelt setting looks like."""

import difflib
import re
from collections.abc import Iterable

import gin


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
