"""What layers of a causal model differ in, from a `config.json` and back: windows and rotation."""

import math
from collections.abc import Mapping
from typing import Any

from prompt_tuning_jax.checkpoints.huggingface.causal.families import FamilyTable
from prompt_tuning_jax.checkpoints.huggingface.fields import Fields
from prompt_tuning_jax.models.causal import CausalConfig, LayerKind, Rotary

FULL, SLIDING = "full_attention", "sliding_attention"
BIDIRECTIONAL = "use_bidirectional_attention"
_THETA = 10000.0
_ORIGINAL = "original_max_position_embeddings"
# Our field -> its name in the files, for the kinds of rotary positions that have it.
_FIELDS = {
    "default": {},
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low": "low_freq_factor",
        "high": "high_freq_factor",
        "original_length": _ORIGINAL,
    },
    "yarn": {
        "factor": "factor",
        "low": "beta_slow",
        "high": "beta_fast",
        "original_length": _ORIGINAL,
        "whole": "truncate",
        "scale": "attention_factor",
    },
}


def layer_kinds(fields: Fields, table: FamilyTable) -> tuple[LayerKind, ...]:
    """The kind of each layer.

    Raises:
      ValueError: fields that contradict each other, or rotary positions of an unknown kind.
    """
    count = fields.count("num_hidden_layers")
    if table.switches.get("learned_positions"):
        return (LayerKind(),) * count
    types = _types(fields, table, count)
    window = fields.count("sliding_window") if SLIDING in types else None
    if window is not None and sees_both_ways(fields, table):
        window = window // 2 + 1  # the file's counts both sides; a position is on either
    rotary = {kind: _rotary(fields, table, kind) for kind in sorted(set(types))}
    turns = _turns(fields, table, count)
    return tuple(
        LayerKind(window if kind == SLIDING else None, rotary[kind] if turn else None)
        for kind, turn in zip(types, turns, strict=True)
    )


def sees_both_ways(fields: Fields, table: FamilyTable) -> bool:
    """Whether positions see what comes after them, in a family where files may say so."""
    return BIDIRECTIONAL in table.reads and fields.flag(BIDIRECTIONAL) is True


def positions_json(config: CausalConfig, table: FamilyTable) -> dict[str, Any]:
    """The fields that `layer_kinds` and transformers read."""
    types = [FULL if layer.window is None else SLIDING for layer in config.layers]
    windows = {layer.window for layer in config.layers} - {None}
    found: dict[str, Any] = {"sliding_window": max(windows, default=None)}
    alike = len(set(types)) == 1
    if "layer_types" in table.reads and not (alike and table.windows == "all"):
        found["layer_types"] = types
    if "use_sliding_window" in table.reads:
        found["use_sliding_window"] = bool(windows)
    if "no_rope_layers" in table.reads:
        found["no_rope_layers"] = [int(layer.rotary is not None) for layer in config.layers]
    by_type = {
        kind: _rotary_json(layer.rotary)
        for kind, layer in zip(types, config.layers, strict=True)
        if layer.rotary is not None
    }
    if "rope_local_base_freq" in table.reads:
        return found | {"rope_parameters": by_type}
    return found | {"rope_parameters": next(iter(by_type.values()), None)}


def _types(fields: Fields, table: FamilyTable, count: int) -> list[str]:
    """Which layers see a window of positions only."""
    stated = fields.get("layer_types") if "layer_types" in table.reads else None
    if stated is not None:
        right = isinstance(stated, list) and len(stated) == count
        if not right or any(kind not in (FULL, SLIDING) for kind in stated):
            raise ValueError(
                f"{fields.path}: layer_types must name {FULL} or {SLIDING} for each of {count} "
                f"layers, not {stated!r}."
            )
        asked = "use_sliding_window" not in table.reads or fields.flag("use_sliding_window")
        if SLIDING in stated and not asked:
            raise ValueError(
                f"{fields.path}: layer_types names {SLIDING}, but use_sliding_window is not true. "
                "Correct the one that is wrong."
            )
        return list(stated)
    if fields.get("sliding_window") is None or table.windows == "none":
        return [FULL] * count
    if table.windows == "asked" and not fields.flag("use_sliding_window"):
        return [FULL] * count
    if table.windows == "pattern":
        key = "sliding_window_pattern"
        period = fields.count(key) if key in table.reads else table.defaults[key]
        return [SLIDING if (i + 1) % period else FULL for i in range(count)]
    if "max_window_layers" in table.reads:
        first = fields.get("max_window_layers")
        return [SLIDING if i >= first else FULL for i in range(count)]
    if "no_rope_layers" in table.reads:
        return [FULL if turns else SLIDING for turns in _turns(fields, table, count)]
    return [SLIDING] * count


def _turns(fields: Fields, table: FamilyTable, count: int) -> list[bool]:
    """Which layers have rotary positions."""
    if "no_rope_layers" not in table.reads:
        return [True] * count
    stated = fields.get("no_rope_layers")
    if stated is None:
        period = fields.count("no_rope_layer_interval")
        return [(i + 1) % period != 0 for i in range(count)]
    right = isinstance(stated, list) and len(stated) >= count
    if not right or any(turns not in (0, 1) for turns in stated):
        raise ValueError(
            f"{fields.path}: no_rope_layers must be 1 (rotary positions) or 0 for each of {count} "
            f"layers, not {stated!r}."
        )
    return [bool(turns) for turns in stated[:count]]


def _rotary(fields: Fields, table: FamilyTable, kind: str) -> Rotary:
    """How positions turn in the layers of a kind."""
    has_kinds = "rope_local_base_freq" in table.reads
    local = has_kinds and kind == SLIDING
    new, old = (_object(fields, key) for key in ("rope_parameters", "rope_scaling"))
    by_kind = FULL in new or SLIDING in new
    if new and by_kind != has_kinds:
        wanted = (
            f"{FULL} and {SLIDING}, each with its own" if has_kinds else "one kind for all layers"
        )
        raise ValueError(f"{fields.path}: rope_parameters must be {wanted}, not {new!r}.")
    if by_kind:
        new = new.get(kind) or {}
    if new and old and not local and new != old:
        raise ValueError(
            f"{fields.path}: rope_parameters and rope_scaling, an older name for it, differ. "
            "Remove the one that is wrong."
        )
    stated = new or ({} if local else old)
    theta = fields.positive("rope_local_base_freq" if local else "rope_theta", _THETA)
    outer = {} if by_kind else {_ORIGINAL: fields.get(_ORIGINAL)}
    return _parsed({"rope_theta": theta} | stated | _known(outer), fields)


def _object(fields: Fields, key: str) -> dict[str, Any]:
    value = fields.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{fields.path}: {key} must be an object, not {value!r}.")
    return _known(value)


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _parsed(stated: Mapping[str, Any], fields: Fields) -> Rotary:
    name = stated.get("rope_type", stated.get("type", "default"))
    if name not in list(_FIELDS):
        raise ValueError(
            f"{fields.path}: rotary positions of the type {name!r} are not done here; "
            f"{', '.join(_FIELDS)} are."
        )
    share = stated.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
    if share not in (None, 1, 1.0):
        raise ValueError(
            f"{fields.path}: partial_rotary_factor is {share!r}: heads are turned as a whole here."
        )
    found = {}
    if name in ("dynamic", "llama3", "yarn"):  # transformers falls back on it
        found[_ORIGINAL] = fields.count("max_position_embeddings")
    inner = Fields(f"{fields.path} (rotary positions)", found | stated)
    if name == "yarn":
        found = _yarn(inner, fields.count("max_position_embeddings"))
    else:
        found = {
            ours: (inner.count if theirs == _ORIGINAL else inner.positive)(theirs)
            for ours, theirs in _FIELDS[name].items()
        }
    for ours, theirs in _FIELDS[name].items():
        if found[ours] is None:
            raise ValueError(f"{fields.path}: {name} rotary positions need {theirs!r}: add it.")
    return Rotary(theta=inner.positive("rope_theta"), kind=name, **found)


def _yarn(inner: Fields, length: int) -> dict[str, Any]:
    """What transformers makes of the fields of a model for rows of `length`, and fills in."""
    original = inner.count(_ORIGINAL)
    factor = inner.positive("factor", length / original)
    wanted, shared = (
        inner.positive(key) if inner.get(key) else None for key in ("mscale", "mscale_all_dim")
    )
    scale = _temperature(factor, 1.0)
    if wanted and shared:
        scale = _temperature(factor, wanted) / _temperature(factor, shared)
    return {
        "factor": factor,
        "low": inner.positive("beta_slow", 1.0),
        "high": inner.positive("beta_fast", 32.0),
        "original_length": original,
        "whole": inner.flag("truncate") is not False,
        "scale": inner.positive("attention_factor", scale),
    }


def _temperature(factor: float, strength: float) -> float:
    """By how much yarn multiplies queries and keys (arXiv:2309.00071, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * strength * math.log(factor) + 1.0


def _rotary_json(rotary: Rotary) -> dict[str, Any]:
    found = {"rope_type": rotary.kind, "rope_theta": rotary.theta}
    return found | {theirs: getattr(rotary, o) for o, theirs in _FIELDS[rotary.kind].items()}
