"""What a checkpoint's weights are to a model: matched, missing, of a wrong shape, or unexpected."""

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from prompt_tuning_jax.checkpoints.stored_array import Shape, StoredArray

_LAYER = re.compile(r"(block\.|layers_|\blayers\.|encoder\.layer\.|\bh\.)(\d+)")


@dataclass(frozen=True)
class WeightComparison:
    """Names and shapes, compared before any weight is read. `print(comparison)` shows a table.

    Attributes:
      source: the directory or file that was looked at.
      matched: name in the checkpoint -> (our name, shape).
      missing: name that the model needs -> shape.
      misshapen: name -> (shape found, shape needed).
      unexpected: name that the model has no use for -> shape.
      described_by: what says which weights the model needs.
    """

    source: str
    matched: Mapping[str, tuple[str, Shape]]
    missing: Mapping[str, Shape]
    misshapen: Mapping[str, tuple[Shape, Shape]]
    unexpected: Mapping[str, Shape]
    described_by: str

    def require_complete(self) -> None:
        """Raises ValueError, naming the weights, unless every weight the model needs is there."""
        faults = [f"missing {name} {shape}" for name, shape in self.missing.items()]
        faults += [
            f"{name} has shape {found}, {self.described_by} needs {needed}"
            for name, (found, needed) in self.misshapen.items()
        ]
        if not faults:
            return
        shown = "; ".join(faults[:6]) + ("; ..." if len(faults) > 6 else "")
        raise ValueError(
            f"{self.source} does not hold the whole model; {len(faults)} weight(s): {shown}. "
            "No weight is ever filled with random numbers: fetch the checkpoint again, or correct "
            f"{self.described_by}."
        )

    def refuse_unknown_layers(self, remedy: str, harmless: Collection[str] = ()) -> None:
        """Raises ValueError where layers hold more than the model does; other weights are left out.

        A model that has more in its layers is another model. What stands outside of them is said
        in the log, unless it is `harmless`.
        """
        unused = [name for name in self.unexpected if name not in harmless]
        layers = [name for name in unused if _LAYER.search(name)]
        if layers:
            raise ValueError(
                f"{self.source} holds {len(layers)} weight(s) in its layers that "
                f"{self.described_by} does not describe, {layers[0]} first. {remedy}"
            )
        if unused:
            names = ", ".join(unused)
            logging.warning("%s: not part of the frozen model: %s", self.source, names)

    def __str__(self) -> str:
        rows = [("matched", k, f"-> {ours}", s) for k, (ours, s) in self.matched.items()]
        rows += [("missing", k, "", s) for k, s in self.missing.items()]
        rows += [
            ("wrong shape", k, f"needs {needed}", s) for k, (s, needed) in self.misshapen.items()
        ]
        rows += [("unexpected", k, "", s) for k, s in self.unexpected.items()]
        counts = (
            f"{len(self.matched)} matched, {len(self.missing)} missing, "
            f"{len(self.misshapen)} of a wrong shape, {len(self.unexpected)} unexpected"
        )
        return "\n".join([f"Weights in {self.source}: {counts}", *_collapsed(rows)])


def compare_weights(
    source: str,
    needed: Mapping[str, tuple[str, Shape]],
    found: Mapping[str, StoredArray],
    described_by: str,
) -> WeightComparison:
    """What was `found` in a checkpoint beside what is `needed`: name there -> (our name, shape)."""
    here = {name: found[name].shape for name in needed if name in found}
    return WeightComparison(
        source=source,
        matched={n: needed[n] for n, shape in here.items() if shape == needed[n][1]},
        missing={n: shape for n, (_, shape) in needed.items() if n not in here},
        misshapen={n: (s, needed[n][1]) for n, s in here.items() if s != needed[n][1]},
        unexpected={n: array.shape for n, array in found.items() if n not in needed},
        described_by=described_by,
    )


def _collapsed(rows: list[tuple[str, str, str, Shape]]) -> list[str]:
    """One aligned line per kind of weight: layers that differ only in their number share a line."""
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for status, name, note, shape in rows:
        row = (status, name, str(shape), note)
        groups.setdefault(tuple(_LAYER.sub(r"\1*", cell) for cell in row), []).append(row)
    lines = []
    for kind, members in groups.items():
        status, name, shape, note = kind if len(members) > 1 else members[0]
        lines.append((status, name, shape, f"x{len(members)}", note))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
