"""How far `prompt-tuning plan` is off: training steps measured on a GPU, and planned for it.

    python scripts/check_gpu_times.py --output scripts/results/gpu_times.json

compiles each step of MEASURED for the GPU that it was measured on (with the [plan_gpu] extra; no
GPU is needed) and writes, beside what was measured, the compiler's memory and every kernel's flops
and bytes, from which the time is calculated. A compilation takes minutes; steps that the file holds
already are kept.
"""

import argparse
import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from prompt_tuning_jax.commands import command
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.planning import gpus, plan
from prompt_tuning_jax.planning.hardware import GIB
from prompt_tuning_jax.planning.hlo import Kernel, Program
from prompt_tuning_jax.planning.models import model_config
from prompt_tuning_jax.planning.step import Lengths, compile_step


@dataclasses.dataclass(frozen=True)
class Measured:
    """T5 1.1 in bfloat16 with a prompt of 100 and targets of 8, as `FORM` says but for `changes`.

    Attributes:
      seconds: of a step.
      gib: at the fullest moment, where it was read.
    """

    name: str
    gpu: str
    model: str
    lengths: Lengths
    seconds: float
    gib: float | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Layers were scanned in T5X's order, not layers first.
FORM = {"remat_policy": "minimal", "scan_layers": True, "scan_axis": 1}
APART = {"attention": "fused", "scan_layers": False}
SHORT = Lengths(batch=64, inputs=64)
# On one H200, with jax 0.11.2. Fused attention was measured in a trial that computed the gradient
# of the frozen bias too; the 20 ms that this took in a profile are left out here.
MEASURED = (
    Measured("XL", "h200", "xl", Lengths(), 0.264, 29.4, {"attention": "fused"}),
    Measured("XL, chunks", "h200", "xl", Lengths(), 0.466, 29.4, {"attention": "chunked"}),
    Measured("XL, dense", "h200", "xl", Lengths(), 0.431, 29.6, {"attention": "dense"}),
    Measured("XL, short", "h200", "xl", SHORT, 0.191, changes={"attention": "dense"}),
    Measured(
        "XL, short, isolated", "h200", "xl", SHORT, 0.133,
        changes={"attention": "dense", "prompt_visibility": "isolated"},
    ),
    Measured("XXL", "h200", "xxl", Lengths(batch=16), 0.442, None, {"attention": "fused"}),
    Measured(
        "XXL, chunks", "h200", "xxl", Lengths(batch=16), 0.631, 60.0,
        {"attention": "chunked"},
    ),
    Measured(
        "XL, layers apart", "h200", "xl", Lengths(), 0.228, 33.4, {**APART, "remat_policy": "none"}
    ),
    Measured("XXL, layers apart", "h200", "xxl", Lengths(batch=16), 0.407, 43.0, APART),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")
    records = json.loads(args.output.read_text()) if args.output.exists() else []
    done = {record["name"] for record in records}
    for one in MEASURED:
        if one.name not in done:
            records.append(dataclasses.asdict(one) | compiled(one))
            args.output.write_text(json.dumps(records) + "\n")
    for record in records:
        print(report(record), flush=True)


def compiled(one: Measured) -> dict[str, Any]:
    """The compiler's memory, and the kernels: [flops, bytes, attention's flops, how often]."""
    config = dataclasses.replace(model_config(one.model), **FORM | one.changes)
    mesh = sharding.make_mesh("data:1", gpus.parse_node(one.gpu).devices())
    made = compile_step(config, one.lengths, mesh)
    kernels = collections.Counter()
    for kernel in Program(made.text).kernels():
        kernels[kernel.flops, kernel.traffic, kernel.attention_flops] += kernel.times
    rows = [[*sizes, times] for sizes, times in kernels.items()]
    return {"needed": made.needed, "kernels": rows, "versions": plan.versions()}


def planned(record: Mapping[str, Any]) -> float:
    """Seconds of a step by a record's kernels."""
    kernels = [Kernel(times, *sizes) for *sizes, times in record["kernels"]]
    return gpus.GPUS[record["gpu"]].seconds(kernels)


def report(record: Mapping[str, Any]) -> str:
    """One line: measured, planned, and by how much that is off."""
    seconds, gib = planned(record), record["needed"] / GIB
    line = f"{record['name']}: {record['seconds']} s measured, {seconds:.3f} planned "
    line += f"({seconds / record['seconds'] - 1:+.1%}); {gib:.1f} GiB planned"
    return line + (f", {record['gib']} measured" if record["gib"] else "")


if __name__ == "__main__":
    command.run(main)
