"""The committed table of plans: T5 1.1, small to XXL, on common TPU slices.

    python scripts/make_plans.py --output scripts/results/plans

writes plans.json and plans.md. Each plan is a compilation of minutes; those that plans.json holds
already are kept, so that an interrupted run continues. `--again xxl@v5e:4x4` makes one anew.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from prompt_tuning_jax.commands import command
from prompt_tuning_jax.planning import hardware as targets
from prompt_tuning_jax.planning import plan as plans
from prompt_tuning_jax.planning import table as report
from prompt_tuning_jax.planning.hlo import Collective
from prompt_tuning_jax.planning.step import Lengths

# Model, slice, mesh, remat policy.
TABLE = (
    ("xxl", "v4:2x2x4", "fsdp:16", "minimal"),
    ("xxl", "v4:2x2x4", "fsdp:16", "none"),
    ("xxl", "v5e:4x4", "fsdp:16", "minimal"),
    ("small", "v5e:1x1", "data:1", "none"),
    ("base", "v5e:2x2", "data:4", "none"),
    ("large", "v5e:2x2", "data:4", "minimal"),
    ("xl", "v5e:2x4", "data:8", "minimal"),
    ("xxl", "v5e:4x4", "data:4,model:4", "minimal"),
    ("xxl", "v4:2x2x4", "data:8,model:2", "none"),
    ("xl", "v4:2x2x2", "data:8", "none"),
    ("xxl", "v5p:2x2x2", "data:8", "none"),
    ("xxl", "v6e:4x4", "data:16", "minimal"),
    ("xxl", "v6e:4x4", "data:8,model:2", "minimal"),
)
HEADER = ("model", "slice", *report.COLUMNS)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="without its endings")
    parser.add_argument("--again", action="append", default=[], metavar="MODEL@SLICE")
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")
    file = args.output.with_suffix(".json")
    records = json.loads(file.read_text())["plans"] if file.exists() else []
    records = [one for one in records if f"{one['model']}@{one['slice']}" not in args.again]
    done = {(one["model"], one["slice"], one["mesh"], one["remat"]) for one in records}
    for row in TABLE:
        if row not in done:
            records.append(make(*row))
            write(args.output, sorted(records, key=order))


def make(model: str, topology: str, mesh: str, remat: str) -> dict[str, Any]:
    """One compilation, as a record."""
    print(f"{model} on {topology}, {mesh}, remat {remat} ...", flush=True)
    target = targets.parse_slice(topology)
    config = plans.model_config(model)
    (made,) = plans.plan_slice(config, Lengths(), target, mesh, remat)
    print(f"  {report.recommendation([made])}", flush=True)
    return {"model": model, "slice": topology, **made.as_json()}


def order(record: dict[str, Any]) -> tuple[int, str, bool, float]:
    """By size, then slice; the fastest that fits first."""
    sizes = ("small", "base", "large", "xl", "xxl")
    size = sizes.index(record["model"])
    return size, record["slice"], not record["fits"], record["seconds"]


def write(output: Path, records: Sequence[dict[str, Any]]) -> None:
    """Both files, whole."""
    asked = {"lengths": vars(Lengths()), "versions": plans.versions()}
    text = json.dumps(asked | {"plans": list(records)}, indent=1)
    output.with_suffix(".json").write_text(text + "\n")
    rows = [[one["model"], one["slice"], *report.cells(from_json(one))] for one in records]
    lines = ["| " + " | ".join(row) + " |" for row in (HEADER, ["---"] * len(HEADER), *rows)]
    text = "\n".join([title(), "", *lines, "", report.COMPILED])
    output.with_suffix(".md").write_text(text + "\n")


def title() -> str:
    """What the table is of, above it."""
    sizes = Lengths()
    compiler = ", ".join(f"{name} {version}" for name, version in plans.versions().items())
    return (
        "# Plans\n\n"
        f"Prompt tuning of T5 1.1 with a prompt of {sizes.prompt}, inputs of {sizes.inputs} and "
        f"targets of {sizes.targets} tokens, {sizes.batch} rows a step over all chips, dropout "
        "0.1, frozen weights in bfloat16, layers scanned: the library's own training step, "
        f"compiled for TPUs by their own compiler ({compiler}), on a machine without any. "
        "`python scripts/make_plans.py --output scripts/results/plans` makes this table, and "
        "`prompt-tuning plan` makes others."
    )


def from_json(record: dict[str, Any]) -> plans.Plan:
    """A record's plan."""
    fields = {name: record[name] for name in plans.Plan.__dataclass_fields__}
    kinds = {kind: Collective(**one) for kind, one in record["collectives"].items()}
    return plans.Plan(**fields | {"collectives": kinds})


if __name__ == "__main__":
    command.run(main)
