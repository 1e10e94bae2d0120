"""The prompt's logical axes, for T5X's partitioner."""

from t5x import partitioning

from prompt_tuning_jax.sharding import AXIS_RULES


def additional_rules() -> list[tuple[str, str | None]]:
    """Those of this library's rules that T5X's standard ones lack; all others are T5X's."""
    standard = {axis for axis, _ in partitioning.standard_logical_axis_rules()}
    return [(axis, mesh) for axis, mesh in AXIS_RULES.items() if axis not in standard]
