"""Plans as a table: for a terminal, and for a document."""

from collections.abc import Sequence

import rich.console
import rich.table
import rich.text

from prompt_tuning_jax.planning.hardware import GIB
from prompt_tuning_jax.planning.plan import Plan, recommended

COLUMNS = (
    "mesh",
    "remat",
    "fits",
    "GiB needed",
    "weights",
    "temporary",
    "Tflop",
    "GB moved",
    "ms work",
    "ms links",
    "collectives",
    "useful",
    "compiled in",
)
COMPILED = (
    "The compiler's: GiB on each device (needed, and of it the weights and what is temporary: "
    "activations), its estimated cycles as ms of work, the collectives of a device with their "
    "sizes, and GB moved to and from its memory. Arithmetic: Tflop, the matrix products of the "
    "step on all devices; ms on the links, the collectives at the rate of a ring, not hidden "
    "behind work; useful, 4 x parameters x tokens over what the chips could do in both times at "
    "their peak."
)
ARITHMETIC = (
    "All arithmetic, from the traced step: needed, its weights and everything alive at once, "
    "before any fusion; ms of work, the longer of its matrix products at --flops and their "
    "operands at --bandwidth, a lower bound; useful, 4 x parameters x tokens over what the GPU "
    "could do in that time at --flops."
)


def print_plans(plans: Sequence[Plan], console: rich.console.Console) -> None:
    """Prints every plan, which is recommended, and where the numbers come from."""
    best = recommended(plans)
    table = rich.table.Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    rows = [cells(plan) for plan in plans]
    told = [i for i in range(len(COLUMNS)) if any(row[i] not in ("", "-", "0") for row in rows)]
    for i in told:
        justify = "left" if COLUMNS[i] in ("mesh", "remat", "fits") else "right"
        texts = (COLUMNS[i], *(row[i] for row in rows))
        words = (word for text in texts for word in text.split())  # none is ever cut
        head = COLUMNS[i].replace(" ", "\n")
        table.add_column(head, justify=justify, min_width=max(map(len, words)))
    for plan, row in zip(plans, rows, strict=True):
        table.add_row(*(row[i] for i in told), style="bold green" if plan is best else "")
    console.print(table)
    console.print(rich.text.Text(recommendation(plans), style="bold"))
    compiled = any(plan.compile_seconds is not None for plan in plans)
    console.print(rich.text.Text(COMPILED if compiled else ARITHMETIC, style="dim"))


def recommendation(plans: Sequence[Plan]) -> str:
    """One sentence: what to run, or by how much it is too large."""
    best = recommended(plans)
    if best is not None:
        return (
            f"mesh {best.mesh!r}, remat {best.remat!r}: {best.seconds * 1e3:.0f} ms a step, "
            f"{gib(best.available - best.needed)} GiB to spare on each device."
        )
    least = min(plans, key=lambda plan: plan.needed)
    return (
        f"Nothing fits: the smallest, mesh {least.mesh!r} with remat {least.remat!r}, is "
        f"{gib(least.needed - least.available)} GiB too large for each device. Take a larger "
        "slice or a smaller batch."
    )


def one_line(plan: Plan) -> str:
    """While others are being compiled."""
    verdict = "fits" if plan.fits else "does not fit"
    return f"{plan.mesh}, remat {plan.remat}: {verdict}; compiling the next"


def cells(plan: Plan) -> list[str]:
    """A plan's cells, in the order of `COLUMNS`; a dash for what is not known."""
    known = plan.fits or plan.compile_seconds is None
    spare = gib(abs(plan.available - plan.needed))
    return [
        plan.mesh,
        plan.remat,
        f"yes, {spare} GiB to spare" if plan.fits else f"no, {spare} GiB too large",
        gib(plan.needed),
        gib(plan.weights) if known else "-",
        gib(plan.temporaries) if known else "-",
        f"{plan.flops / 1e12:.3g}",
        f"{plan.traffic / 1e9:.3g}" if known else "-",
        f"{plan.work_seconds * 1e3:.3g}" if known else "-",
        f"{plan.link_seconds * 1e3:.3g}" if known else "-",
        _collectives(plan),
        f"{plan.useful_share:.0%}" if known else "-",
        "-" if plan.compile_seconds is None else f"{plan.compile_seconds:.0f} s",
    ]


def _collectives(plan: Plan) -> str:
    return ", ".join(
        f"{one.count} {kind} {one.size / 1e9:.2g} GB" for kind, one in plan.collectives.items()
    )


def gib(size: float) -> str:
    return f"{size / GIB:.2f}"
