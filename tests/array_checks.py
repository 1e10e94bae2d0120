"""While the tests run, every array that the library takes or gives is as its annotation says.

Once this module is imported, `jaxtyping`'s import hook puts `check` on the functions and the
dataclasses of every module that writes shapes. It looks at the annotations that name an array's
shape and dtype; mypy reads those of other things.
"""

import contextlib
import functools
import importlib.util
import operator
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import beartype
import jaxtyping
import numpy as np

LIBRARY = "prompt_tuning_jax"


def modules_with_shapes() -> list[str]:
    """The library's modules that import jaxtyping, found without importing them."""
    (root,) = importlib.util.find_spec(LIBRARY).submodule_search_locations
    files = [path for path in Path(root).rglob("*.py") if "\nfrom jaxtyping" in path.read_text()]
    return [".".join([LIBRARY, *path.relative_to(root).with_suffix("").parts]) for path in files]


jaxtyping.install_import_hook(modules_with_shapes(), f"{__name__}.check")


@contextlib.contextmanager
def off() -> Iterator[None]:
    """For a test that gives the library a wrong array, to see what the library says of it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def check(function: Callable) -> Callable:
    """The function, which now refuses wrong arrays."""
    hints = function.__annotations__
    arrays = {
        name: hint
        for name, hint in hints.items()
        if _names_array(hint) and not _names_protocol(hint)
    }
    if not arrays:
        return function
    function.__annotations__ = {name: _of_any_array(hint) for name, hint in arrays.items()}
    return beartype.beartype(function)


def _is_array(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


def _names_protocol(hint: object) -> bool:
    """To look for a protocol's attributes is to ask for them, and some are read from files."""
    return any(getattr(part, "_is_protocol", False) for part in typing.get_args(hint))


def _names_array(hint: object) -> bool:
    return _is_array(hint) or any(map(_names_array, typing.get_args(hint)))


def _of_any_array(hint: Any) -> Any:
    """Shape and dtype are checked: JAX takes a numpy array wherever it takes its own."""
    if _is_array(hint):
        return hint.dtype[jaxtyping.Array | np.ndarray, hint.dim_str]
    parts = tuple(map(_of_any_array, typing.get_args(hint)))
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return functools.reduce(operator.or_, parts)
    return tuple[parts] if typing.get_origin(hint) is tuple else hint
