"""How fast is prompt tuning on one GPU, against PEFT, and in how much memory?

xl_long     a training step of T5 1.1 XL: 32 rows of 512 tokens and a prompt of 100, with and
            without dropout, by this library with its defaults and by PEFT, eager and compiled.
xxl_long    the same of XXL, 16 rows.
xl_short    64 rows of 64 tokens and the prompt; also with an isolated prompt.
many        a step of each of 8 prompts, 4 such rows each: one after another, and together.
decode      8 tokens, greedily, for 16 such rows; also with an isolated prompt.

Weights are random bfloat16, made on the device. Each contender is a process of its own, whose
memory is its own; they never work at the same time. The most important ones come first, and what
does not fit into --limit_minutes is recorded as skipped, as is PEFT where it is not installed.

    PYTHONPATH=. python scripts/benchmark_gpu.py --output scripts/results/gpu.json
    PYTHONPATH=. python scripts/benchmark_gpu.py --tiny       # on a CPU, to see that it all runs

Before the rows the device's rate is measured on a large matrix product, and the prompt's gradient
is compared with that of plain attention in float32, in each form of attention that there is. The
useful share is 4 x parameters x tokens (half of it in decoding) over the time and that rate. From a
checkout it needs this library's dependencies, of which TensorFlow and SeqIO are none, without
tensorboardX. The result is 1 where a gradient was wrong, and the figures are still recorded.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import PEFT, command_line, machine
from benchmark_gpu_rows import ROWS, Contender, Row, check_settings, in_order, settings_of
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
CONSOLE = Console(width=110)
Result = dict[str, Any]
LEAST_SECONDS = 25  # to start a process, compile, and measure


class SkippedError(Exception):
    """Why there are no figures of a contender."""


def run_worker(
    python: str, script: str, settings: Mapping[str, Any], seconds: float, told: Sequence[int] = ()
) -> tuple[Result, list[dict[str, float]]]:
    """What a worker says when it is ready, and after each turn that it is told to take.

    Raises:
      SkippedError: it has failed, or was not done in time and has been stopped.
    """
    process = subprocess.Popen(
        [python, str(HERE / script), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        replies, errors = process.communicate("".join(f"{n}\n" for n in told), timeout=seconds)
    except subprocess.TimeoutExpired:
        raise SkippedError(f"it was not done within {seconds:.0f} seconds") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that a compiler has started
            process.wait()
    if process.returncode:
        sys.stderr.write(errors)
        last = errors.strip().splitlines() or [f"it ended with {process.returncode}"]
        raise SkippedError(last[-1][:200])
    facts, *turns = map(json.loads, replies.splitlines())
    return facts, turns


def measure(
    name: str, contender: Contender, row: Row, args: argparse.Namespace, seconds: float
) -> Result:
    """The figures of one contender, in at most so many seconds."""
    settings = {**settings_of(row, args.tiny), **contender.settings}
    is_peft = name.startswith(PEFT)
    python = args.torch_python if is_peft else sys.executable
    if settings["compile"]:
        seconds = min(seconds, args.compile_seconds)
    started = time.perf_counter()
    script = "benchmark_torch.py" if is_peft else "benchmark_jax.py"
    facts, turns = run_worker(python, script, settings, seconds, [args.steps] * args.repeats)
    each = [turn["seconds"] for turn in turns]
    return facts | {
        "seconds": each,
        "median_seconds": statistics.median(each),
        "peak_gibibytes": turns[-1]["peak_bytes"] / 2**30,
        "whole_process_seconds": time.perf_counter() - started,
    }


class Report:
    """All figures, written to a file as they come."""

    def __init__(self, rows: Mapping[str, Row], args: argparse.Namespace):
        self._deadline = time.monotonic() + 60 * args.limit_minutes
        self._least = 0 if args.tiny else LEAST_SECONDS
        self._rows, self._args = rows, args
        self.results: Result = {
            "command": command_line("benchmark_gpu.py"),
            "machine": machine(),
            "steps": args.steps,
            "repeats": args.repeats,
            "rows": {name: {"contenders": {}} for name in rows},
        }

    def seconds_left(self) -> float:
        """For one more process.

        Raises:
          SkippedError: too few of them.
        """
        left = self._deadline - time.monotonic()
        if left <= self._least:
            raise SkippedError("the time limit")
        return left

    def check(self) -> None:
        try:
            settings = check_settings(self._rows, self._args.tiny)
            seconds = self.seconds_left()
            found, _ = run_worker(sys.executable, "benchmark_gpu_checks.py", settings, seconds)
        except SkippedError as error:
            found = {"skipped": str(error)}
        self.results["check"] = found
        self.save()

    def measure(self, row: str, name: str, contender: Contender) -> None:
        CONSOLE.print(f"{row}: {name}", highlight=False)
        try:
            left = self.seconds_left()
            found = measure(name, contender, self._rows[row], self._args, left)
            flops = self.results["check"].get("useful_flops", {}).get(row)
            if flops:
                rate = flops / found["median_seconds"]
                found["useful_share"] = rate / self.results["check"]["matrix_rate"]
        except SkippedError as error:
            found = {"skipped": str(error)}
        self.results["rows"][row]["contenders"][name] = found
        self.save()

    def compare(self) -> None:
        """Adds to each contender its time over that of those it is measured against."""
        for row, one in self._rows.items():
            found = self.results["rows"][row]["contenders"]
            for name, contender in one.contenders.items():
                mine = found[name]
                mine["against"] = {
                    other: mine["median_seconds"] / found[other]["median_seconds"]
                    for other in contender.against
                    if "skipped" not in mine and "skipped" not in found[other]
                }
        self.save()

    def save(self) -> None:
        if self._args.output:
            self._args.output.parent.mkdir(parents=True, exist_ok=True)
            self._args.output.write_text(json.dumps(self.results, indent=1) + "\n")


def show(results: Result, rows: Mapping[str, Row]) -> None:
    """The table."""
    check = results["check"]
    CONSOLE.print({name: x for name, x in check.items() if name not in ("trained", "useful_flops")})
    table = Table("row", "", "seconds", "peak GiB", "useful", "time / that of")
    for row, one in rows.items():
        for name in one.contenders:
            table.add_row(row, name, *cells(results["rows"][row]["contenders"][name]))
    CONSOLE.print(table)


def cells(found: Result) -> list[str]:
    if "skipped" in found:
        return ["skipped", "", "", found["skipped"]]
    share = f"{found['useful_share']:.1%}" if "useful_share" in found else ""
    ratios = [f"{ratio:.2f} {other}" for other, ratio in found["against"].items()]
    return [
        f"{found['median_seconds']:.4f}",
        f"{found['peak_gibibytes']:.2f}",
        share,
        "\n".join(ratios),
    ]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on a CPU")
    parser.add_argument("--limit_minutes", type=float, default=8, help="for everything")
    parser.add_argument(
        "--compile_seconds", type=float, default=75, help="for all of PEFT under torch.compile"
    )
    parser.add_argument("--steps", type=int, help="in a turn; 3, or 1 of tiny ones")
    parser.add_argument("--repeats", type=int, help="turns of each contender; 5, or 2 tiny ones")
    parser.add_argument(
        "--torch_python", default=sys.executable, help="a python with torch, transformers and peft"
    )
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    args = parser.parse_args(argv)
    args.steps = args.steps or (1 if args.tiny else 3)
    args.repeats = args.repeats or (2 if args.tiny else 5)
    return args


def set_environment(tiny: bool, cache: str) -> None:
    """What every worker finds; what the user has set stays as it is.

    Programs that several of them need, such as those that draw the weights, are compiled once.
    """
    for name, value in {
        "JAX_PLATFORMS": "cpu" if tiny else "cuda",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }.items():
        os.environ.setdefault(name, value)


def main() -> None:
    args = parse_arguments()
    rows = {name: ROWS[name] for name in args.rows}
    report = Report(rows, args)
    with tempfile.TemporaryDirectory() as cache:
        set_environment(args.tiny, cache)
        report.check()
        for each in in_order(rows):
            report.measure(*each)
    report.compare()
    show(report.results, rows)
    sys.exit(0 if report.results["check"].get("is_right") else 1)


if __name__ == "__main__":
    main()
