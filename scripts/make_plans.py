"""The committed table of plans: T5 1.1, small to XXL, and causal models, on common TPUs and GPUs.

    python scripts/make_plans.py --output scripts/results/plans

writes plans.json and plans.md. Each plan is a compilation of minutes; those that plans.json holds
already are kept, so that an interrupted run continues. `--again xxl@v5e:4x4` makes one anew;
`--only gpu` leaves out those for TPUs, which need another extra.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from prompt_tuning_jax.checkpoints.huggingface.causal import PUBLISHED
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.planning import gpus
from prompt_tuning_jax.planning import plan as plans
from prompt_tuning_jax.planning import table as report
from prompt_tuning_jax.planning.hardware import Slice, parse_slice
from prompt_tuning_jax.planning.hlo import Collective
from prompt_tuning_jax.planning.models import model_config
from prompt_tuning_jax.planning.step import Lengths

# Model, slice or GPUs, what the prompt sees, mesh, remat policy, weights, layers.
TABLES = {
    "tpu": (
        ("small", "v5e:1x1", "full", "data:1", "none", "bfloat16", "scanned"),
        ("base", "v5e:2x2", "full", "data:4", "none", "bfloat16", "scanned"),
        ("large", "v5e:2x2", "full", "data:4", "minimal", "bfloat16", "scanned"),
        ("xl", "v5e:2x4", "full", "data:8", "minimal", "bfloat16", "scanned"),
        ("xxl", "v5p:2x2x2", "full", "data:8", "minimal", "bfloat16", "scanned"),
        ("xxl", "v4:2x2x4", "full", "data:16", "minimal", "bfloat16", "scanned"),
        ("xxl", "v4:2x2x4", "full", "data:16", "minimal", "bfloat16", "apart"),
        ("xxl", "v6e:4x4", "full", "data:16", "minimal", "bfloat16", "scanned"),
        ("xxl", "v5e:4x4", "full", "data:4,model:4", "minimal", "bfloat16", "scanned"),
        ("xxl", "v5e:4x4", "full", "fsdp:16", "minimal", "bfloat16", "scanned"),
        ("xxl", "v5e:4x4", "full", "fsdp:16", "minimal", "bfloat16", "apart"),
        ("xxl", "v5e:4x4", "full", "data:16", "minimal", "int8", "scanned"),
        ("xxl", "v5e:4x4", "full", "data:16", "minimal", "int8", "apart"),
        ("llama3.2-1b", "v5e:2x2", "full", "data:4", "none", "bfloat16", "scanned"),
    ),
    "gpu": (
        ("xl", "h200:1", "full", "data:1", "none", "bfloat16", "apart"),
        ("xl", "h100:1", "isolated", "data:1", "none", "bfloat16", "apart"),
        ("xl", "h100:1", "full", "data:1", "minimal", "int8", "apart"),
        ("xxl", "h200:1", "full", "data:1", "minimal", "bfloat16", "apart"),
        ("xxl", "h100:8", "full", "fsdp:8", "minimal", "bfloat16", "scanned"),
        ("large", "a100:1", "full", "data:1", "none", "bfloat16", "apart"),
        ("base", "l4:1", "full", "data:1", "none", "bfloat16", "apart"),
        ("small", "l4:1", "full", "data:1", "none", "bfloat16", "apart"),
        ("llama3.2-1b", "h200:1", "full", "data:1", "minimal", "bfloat16", "scanned"),
    ),
}
NOTES = {"tpu": report.TPU_NOTES, "gpu": report.GPU_NOTES}
ROW = ("model", "hardware", "prompt_visibility", "mesh", "remat", "model_dtype", "layers")
TOLD_AS = ("model", "weights are", "layers", "on", "prompt")
TOLD = ("model", "model_dtype", "layers", "hardware", "prompt_visibility")
SIZES = ("small", "base", "large", "xl", "xxl", *PUBLISHED)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="without its endings")
    parser.add_argument("--again", action="append", default=[], metavar="MODEL@HARDWARE")
    parser.add_argument("--only", choices=TABLES)
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")
    file = args.output.with_suffix(".json")
    records = json.loads(file.read_text())["plans"] if file.exists() else []
    records = [one for one in records if f"{one['model']}@{one['hardware']}" not in args.again]
    done = {tuple(one[name] for name in ROW) for one in records}
    for kind in [args.only] if args.only else TABLES:
        for row in TABLES[kind]:
            if row not in done:
                records.append(make(*row))
                write(args.output, sorted(records, key=order))
    write(args.output, sorted(records, key=order))


def make(
    model: str,
    hardware: str,
    visibility: str,
    mesh: str,
    remat: str,
    model_dtype: str,
    layers: str,
) -> dict[str, Any]:
    """One compilation, as a record."""
    told = model_dtype, layers, visibility, mesh, remat
    print(f"{model} on {hardware}, {', '.join(told)} ...", flush=True)
    config = dataclasses.replace(
        model_config(model), prompt_visibility=visibility, scan_layers=layers == "scanned"
    )
    lengths = Lengths(int8=model_dtype == "int8")
    (made,) = plans.plan_target(config, lengths, target_of(hardware), mesh, remat)
    print(f"  {report.recommendation([made])}", flush=True)
    known = {
        "model": model,
        "model_dtype": model_dtype,
        "layers": layers,
        "hardware": hardware,
        "prompt_visibility": visibility,
    }
    return known | made.as_json() | {"versions": plans.versions()}


def target_of(hardware: str) -> Slice | gpus.Node:
    return gpus.parse_node(hardware) if kind_of(hardware) == "gpu" else parse_slice(hardware)


def kind_of(hardware: str) -> str:
    return "gpu" if hardware.partition(":")[0] in gpus.GPUS else "tpu"


def order(record: dict[str, Any]) -> tuple[int, str, bool, float]:
    """By size, then hardware; the fastest that fits first."""
    return SIZES.index(record["model"]), record["hardware"], not record["fits"], record["seconds"]


def write(output: Path, records: Sequence[dict[str, Any]]) -> None:
    """Both files, whole."""
    text = json.dumps({"lengths": _lengths(), "plans": list(records)}, indent=1)
    output.with_suffix(".json").write_text(text + "\n")
    parts = [title()]
    for kind in TABLES:
        if rows := [one for one in records if kind_of(one["hardware"]) == kind]:
            parts += section(kind, rows)
    output.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


def _lengths() -> dict[str, int]:
    """Those that all rows have in common."""
    return {
        name: value for name, value in vars(Lengths()).items() if name not in ("int8", "method")
    }


def title() -> str:
    """What the tables are of, above them."""
    sizes = Lengths()
    return (
        "# Plans\n\n"
        f"Prompt tuning of T5 1.1, small to xxl, and of causal models, with a prompt of "
        f"{sizes.prompt}, inputs of {sizes.inputs} and targets of {sizes.targets} tokens, "
        f"{sizes.batch} rows a step over all devices, dropout 0.1, activations in bfloat16, "
        "attention fused wherever the library has a kernel for the model: the library's "
        "own training step, compiled for TPUs and GPUs by their own compilers, on a machine "
        "without any. "
        "`python scripts/make_plans.py --output scripts/results/plans` makes these tables, and "
        "`prompt-tuning plan` makes others."
    )


def section(kind: str, records: Sequence[dict[str, Any]]) -> list[str]:
    """One kind of hardware: heading, table, notes."""
    used = sorted({", ".join(map(" ".join, one["versions"].items())) for one in records})
    rows = [report.cells(from_json(one)) for one in records]
    told = report.told_columns(rows)
    header = (*TOLD_AS, *(report.COLUMNS[i] for i in told))
    rows = [
        [*(one[name] for name in TOLD), *(row[i] for i in told)]
        for one, row in zip(records, rows, strict=True)
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    compiled = f"Compiled with {'; '.join(used)}."
    return [f"## {kind.upper()}s", "\n".join(lines), f"{compiled} {NOTES[kind]}"]


def from_json(record: dict[str, Any]) -> plans.Plan:
    """A record's plan."""
    fields = {name: record[name] for name in plans.Plan.__dataclass_fields__}
    kinds = {kind: Collective(**one) for kind, one in record["collectives"].items()}
    return plans.Plan(**fields | {"collectives": kinds})


if __name__ == "__main__":
    command.run(main)
