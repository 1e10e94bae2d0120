"""What PEFT's settings say of single modules: whether an adapter changes them, and by how much.

PEFT puts an adapter at the modules that its settings name, then fills it from the tensors, and
leaves out those of other modules without a word. Settings that say otherwise than the tensors are
refused here.
"""

import re
from collections.abc import Mapping
from typing import Any

from prompt_tuning_jax.checkpoints.peft import APART

Facts = Mapping[str, Any]


def check_module(where: object, facts: Facts, module: str) -> None:
    """Refuses the tensors of a module that the settings leave out.

    Raises:
      ValueError: PEFT would leave it as it is.
    """
    targets, excluded = facts.get("target_modules"), facts.get("exclude_modules")
    if targets is not None and targets != "all-linear" and not _named(where, targets, module):
        raise ValueError(_left_out(where, module, "target_modules"))
    if excluded and _named(where, excluded, module):
        raise ValueError(_left_out(where, module, "exclude_modules"))
    layers = facts.get("layers_to_transform")
    if isinstance(targets, list) and module not in targets and layers not in (None, []):
        found = _layer_of(where, facts.get("layers_pattern") or [], module)
        if found is None or found not in (layers if isinstance(layers, list) else [layers]):
            raise ValueError(_left_out(where, module, "layers_to_transform"))


def check_rank(where: object, facts: Facts, module: str, rank: int) -> None:
    """Refuses a LoRA of another rank than the settings say.

    Raises:
      ValueError: PEFT would not load it.
    """
    expected = of_module(where, facts, "rank_pattern", module, facts.get("r", rank))
    if rank != expected:
        raise ValueError(
            f"{where}: the LoRA of {module} has the rank {rank}, and by its settings {expected!r}. "
            f"{APART}"
        )


def is_feedforward(where: object, facts: Facts, module: str) -> bool | None:
    """Whether an IA3 scales what goes into a module; None where the settings do not say."""
    named = facts.get("feedforward_modules")
    if named is None or isinstance(named, str):
        return None if named is None else _named(where, named, module)
    return module.endswith(tuple(map(str, _listed(where, named))))


def of_module(where: object, facts: Facts, field: str, module: str, usual: Any) -> Any:
    """What PEFT finds for a module: by the first pattern that its name ends with.

    Raises:
      ValueError: the field holds no patterns.
    """
    patterns = facts.get(field) or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"{where}: {field} must give patterns values, not be {patterns!r}.")
    for pattern, value in patterns.items():
        if _matches(where, rf"(?:.*\.)?(?:{pattern})", module):
            return value
    return usual


def _named(where: object, names: Any, module: str) -> bool:
    """By a regular expression, or by names of which one is the module's, or its end."""
    if isinstance(names, str):
        return _matches(where, names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in _listed(where, names))


def _listed(where: object, names: Any) -> list[Any]:
    if not isinstance(names, list):
        raise ValueError(f"{where}: modules are named by a list or an expression, not {names!r}.")
    return names


def _layer_of(where: object, patterns: Any, module: str) -> int | None:
    """The number of a module's layer, which comes after one of some names, or after any."""
    patterns = [patterns] if isinstance(patterns, str) else _listed(where, patterns)
    for pattern in [rf"(?:.*?\.)?{each}" for each in patterns] or [r".*?\.[^.]*"]:
        if found := _matches(where, rf"{pattern}\.(?P<layer>\d+)\..*", module):
            return int(found["layer"])
    return None


def _matches(where: object, pattern: str, module: str) -> re.Match[str] | None:
    try:
        return re.fullmatch(pattern, module)
    except re.error as error:
        raise ValueError(f"{where}: {pattern!r} is no regular expression ({error}).") from error


def _left_out(where: object, module: str, field: str) -> str:
    return f"{where} holds weights for {module}, which the settings' {field} leave out. {APART}"
