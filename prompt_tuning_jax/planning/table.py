"""Plans as a table: for a terminal, and for a document."""

from collections.abc import Sequence

import rich.console
import rich.table
import rich.text

from prompt_tuning_jax.planning import gpus
from prompt_tuning_jax.planning.hardware import GIB
from prompt_tuning_jax.planning.plan import Plan, recommended

COLUMNS = (
    "mesh",
    "remat",
    "fits",
    "GiB needed",
    "weights",
    "trained",
    "temporary",
    "Tflop",
    "GB moved",
    "ms work",
    "ms links",
    "ms hidden",
    "bound by",
    "collectives",
    "useful",
    "compiled in",
)
_COMPILED = (
    "The compiler's: GiB on each device (needed, and of it the frozen weights, and what is "
    "temporary: activations), the collectives of a device with their sizes, and GB moved to and "
    "from its memory. Arithmetic: GiB of what trains and of its optimizer's state; Tflop, the "
    "matrix products of the step on all devices; ms on the links, the collectives at the rate of a "
    "ring; ms hidden, those of them that the compiler's order of instructions has beside work; "
    "bound by, which of products, memory and links would take longest at its peak; useful, 4 x "
    "parameters x tokens (6 where the model's weights train) over what the devices could do in "
    "the step's time at their peak. "
)
TPU_NOTES = _COMPILED + (
    "ms of work: the compiler's estimated cycles, and fused attention at 60% of the peak, which is "
    "an assumption."
)
GPU_NOTES = _COMPILED + (
    "ms of work: each kernel at the slower of its products and its traffic, at the shares of the "
    "GPU's rates that were chosen for nine steps measured on one H200: right to 5% for those, not "
    "measured on other GPUs or on several. A GPU has as much memory as JAX takes of it, "
    f"{gpus.MEMORY_FRACTION:.0%} unless {gpus.FRACTION_VARIABLE} says otherwise."
)


def print_plans(plans: Sequence[Plan], notes: str, console: rich.console.Console) -> None:
    """Prints every plan, which is recommended, and where the numbers come from."""
    best = recommended(plans)
    console.print(rich.text.Text(what_trains(plans[0]), style="bold"))
    table = rich.table.Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    rows = [cells(plan) for plan in plans]
    told = told_columns(rows)
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
    console.print(rich.text.Text(notes, style="dim"))


def told_columns(rows: Sequence[Sequence[str]]) -> list[int]:
    """Which of `COLUMNS` say something in some row."""
    return [i for i in range(len(COLUMNS)) if any(row[i] not in ("", "-", "0") for row in rows)]


def what_trains(plan: Plan) -> str:
    """One sentence: the method, and how many numbers it trains."""
    return f"{plan.method} trains {plan.trained:,} numbers; the model has {plan.parameters:,}."


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
        f"{gib(least.needed - least.available)} GiB too large for each device. Take more or "
        "larger devices, or a smaller batch."
    )


def one_line(plan: Plan) -> str:
    """While others are being compiled."""
    verdict = "fits" if plan.fits else "does not fit"
    return f"{plan.mesh}, remat {plan.remat}: {verdict}; compiling the next"


def cells(plan: Plan) -> list[str]:
    """A plan's cells, in the order of `COLUMNS`; a dash for what is not known."""
    known = plan.arguments > 0  # a TPU's compiler gives only a refusal where a step does not fit
    spare = gib(abs(plan.available - plan.needed))
    return [
        plan.mesh,
        plan.remat,
        f"yes, {spare} GiB to spare" if plan.fits else f"no, {spare} GiB too large",
        gib(plan.needed),
        gib(plan.weights) if known else "-",
        gib(plan.masters + plan.state) if plan.masters + plan.state > GIB / 200 else "-",
        gib(plan.temporaries) if known else "-",
        f"{plan.flops / 1e12:.3g}",
        f"{plan.traffic / 1e9:.3g}" if known else "-",
        f"{plan.work_seconds * 1e3:.3g}" if known else "-",
        f"{plan.link_seconds * 1e3:.3g}" if known else "-",
        f"{plan.hidden_seconds * 1e3:.3g}" if known else "-",
        plan.bound if known else "-",
        _collectives(plan),
        f"{plan.useful_share:.0%}" if known else "-",
        f"{plan.compile_seconds:.0f} s",
    ]


def _collectives(plan: Plan) -> str:
    return ", ".join(
        f"{one.count} {kind} {one.size / 1e9:.2g} GB" for kind, one in plan.collectives.items()
    )


def gib(size: float) -> str:
    return f"{size / GIB:.2f}"
