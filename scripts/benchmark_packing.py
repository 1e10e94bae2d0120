"""How many examples per second does each way of making training batches give?

    padded     every example in a row of the longest input
    bucketed   examples of similar length together (the default)
    packed     several examples in a row (PACK = True)

on a stream of examples as long as SuperGLUE's, for each of its tasks and for all of them mixed in
equal parts ("mix"). A step's time depends on its batch's shape alone: each shape that a long stream
brings is timed, in turns, and counts as often as it comes (but for the rarest).

    python scripts/benchmark_packing.py --only mix rte --output scripts/results/packing.json
    python scripts/benchmark_packing.py --shapes        # which there are; times nothing
"""

import argparse
import collections
import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from benchmark import machine
from benchmark_jax import random_model, random_prompt, start
from make_random_t5 import SIZES, model_config
from rich.console import Console
from rich.table import Table

from prompt_tuning_jax.commands import command
from prompt_tuning_jax.data.batches import TrainBatches
from prompt_tuning_jax.data.encoding import Batch
from prompt_tuning_jax.data.packing import PackedBatches
from prompt_tuning_jax.data.task import ExampleList
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.vocabularies import ByteVocabulary

HERE = Path(__file__).parent
LENGTHS = HERE / "results" / "superglue_lengths.json"
EXAMPLES, STEPS = 4096, 512  # of a stream: how many there are, and for how many batches it is read
CONSOLE = Console(width=100)
RARE = 0.02  # shapes that fewer of a stream's batches have are not timed, and left out
MIX = "mix"
Counts = Mapping[str, int]  # length -> how many examples have it
Shape = tuple[int, ...]  # rows, positions without a prefix that the step adds, target positions
Streams = dict[str, dict[str, collections.Counter[Shape]]]  # source -> method -> shapes


def draw(counts: Counts, size: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths [size] as frequent as they were counted."""
    lengths, weights = np.array([int(n) for n in counts]), np.array(list(counts.values()))
    return rng.choice(lengths, size, p=weights / weights.sum())


def make_sources(measured: Mapping[str, Mapping[str, Counts]]) -> dict[str, ExampleList]:
    """Examples of random tokens for each task, and of all tasks in equal parts."""
    rng = np.random.default_rng(0)
    sources = {}
    for name, task in measured.items():
        pairs = zip(*(draw(task[f], EXAMPLES, rng) for f in ("inputs", "targets")), strict=True)
        sources[name] = ExampleList(
            {"inputs": np.full(n, 5), "targets": np.full(m, 5)} for n, m in pairs
        )
    parts = [source[: EXAMPLES // len(sources)] for source in sources.values()]
    return {MIX: ExampleList(itertools.chain(*parts)), **sources}


def methods(source: ExampleList, args: argparse.Namespace) -> dict[str, TrainBatches]:
    lengths = {"inputs": args.inputs, "targets": args.targets}
    common = {"batch_size": args.batch, "lengths": lengths, "seed": 0}
    given = source, ByteVocabulary()
    return {
        "padded": TrainBatches(*given, **common, buckets={"inputs": (), "targets": ()}),
        "bucketed": TrainBatches(*given, **common),
        "packed": PackedBatches(
            *given, **common, prompt_length=args.prompt, row_multiple=args.microbatches
        ),
    }


def shape_of(batch: Batch) -> Shape:
    return (*batch["encoder_input_tokens"].shape, batch["decoder_input_tokens"].shape[1])


def collect(args: argparse.Namespace) -> tuple[Streams, dict[Shape, Batch]]:
    """How often each shape comes in each stream, and a batch of each."""
    sources = make_sources(json.loads(args.lengths.read_text()))
    streams, batches = {}, {}
    for name in args.only or sources:
        streams[name] = {}
        for method, stream in methods(sources[name], args).items():
            shapes = collections.Counter()
            for batch in itertools.islice(stream, STEPS):
                shapes[shape_of(batch)] += 1
                batches.setdefault(shape_of(batch), batch)
            streams[name][method] = shapes
    return streams, batches


def without_rare(counts: collections.Counter[Shape]) -> collections.Counter[Shape]:
    least = RARE * counts.total()
    return collections.Counter({shape: n for shape, n in counts.items() if n >= least})


def time_steps(batches: Mapping[Shape, Batch], args: argparse.Namespace) -> dict[Shape, float]:
    """Seconds of the training step on each batch: the median of turns."""
    config = dataclasses.asdict(model_config(args.size)) | {"dtype": "float32"}
    settings = {"config": config, "prompt": args.prompt}
    train_config = TrainConfig(
        dropout_rate=0.0, microbatches=args.microbatches, prompt_length=args.prompt
    )
    model, mesh = random_model(settings), sharding.make_mesh("data:-1")
    state, frozen, step = start(train_config, model, mesh, random_prompt(settings))
    seconds, key = {shape: [] for shape in batches}, jax.random.key(0)
    for turn in range(args.repeats + 1):
        CONSOLE.print(f"turn {turn} of {args.repeats}: {len(batches)} shapes", highlight=False)
        for shape, batch in batches.items():
            started = time.perf_counter()
            *state, metrics = step(*state, frozen, jax.device_put(batch), key)
            jax.block_until_ready((state, metrics))
            if turn:  # the first one compiles
                seconds[shape].append(time.perf_counter() - started)
    return {shape: statistics.median(each) for shape, each in seconds.items()}


def summarise(
    shapes: Mapping[str, collections.Counter[Shape]], seconds: Mapping[Shape, float], batch: int
) -> dict[str, Any]:
    """Examples per second of each method, and how many times the padded one's."""
    found = {}
    for method, every in shapes.items():
        counts = without_rare(every)
        spent = sum(seconds[shape] * count for shape, count in counts.items())
        found[method] = {
            "examples_per_second": batch * counts.total() / spent,
            "shapes": len(every),
            "share_timed": counts.total() / every.total(),
            "positions_per_example": positions(counts, batch),
        }
    padded = found["padded"]["examples_per_second"]
    return {m: f | {"against_padded": f["examples_per_second"] / padded} for m, f in found.items()}


def positions(counts: collections.Counter[Shape], batch: int) -> float:
    """Encoder positions, without the prompt's in rows that are not packed, for each example."""
    total = sum(rows * length * count for (rows, length, _), count in counts.items())
    return total / (batch * counts.total())


def show(sources: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table("examples", "padded /s", "bucketed /s", "packed /s", "bucketed", "packed")
    for name, found in sources.items():
        rates = [f"{figures['examples_per_second']:.2f}" for figures in found.values()]
        ratios = [f"{found[m]['against_padded']:.2f} x" for m in ("bucketed", "packed")]
        table.add_row(name, *rates, *ratios)
    CONSOLE.print(table)


def show_shapes(streams: Streams) -> None:
    table = Table("examples", "batches", "shapes: rows x input positions x targets, and how often")
    for name, shapes in streams.items():
        for method, counts in shapes.items():
            listed = (f"{'x'.join(map(str, s))}: {n}" for s, n in counts.most_common())
            table.add_row(name, method, ", ".join(listed))
    CONSOLE.print(table)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=Path, default=LENGTHS, help="from measure_lengths.py")
    parser.add_argument("--only", nargs="+", help="of the tasks and the mix; default: all")
    parser.add_argument("--size", choices=SIZES, default="small", help="of T5 1.1")
    parser.add_argument("--batch", type=int, default=16, help="examples in a step")
    parser.add_argument("--inputs", type=int, default=512, help="the longest input")
    parser.add_argument("--targets", type=int, default=16, help="the longest target")
    parser.add_argument("--prompt", type=int, default=100, help="prompt positions")
    parser.add_argument("--microbatches", type=int, default=1, help="of every step")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each shape")
    parser.add_argument("--shapes", action="store_true", help="list the shapes, time nothing")
    parser.add_argument("--output", type=Path, help="JSON file for the figures; adds to it")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_arguments()
    streams, batches = collect(args)
    if args.shapes:
        show_shapes(streams)
        return
    common = {s for shapes in streams.values() for c in shapes.values() for s in without_rare(c)}
    seconds = time_steps({s: batch for s, batch in batches.items() if s in common}, args)
    sources = {name: summarise(shapes, seconds, args.batch) for name, shapes in streams.items()}
    show(sources)
    if args.output:
        names = ("size", "batch", "inputs", "targets", "prompt", "microbatches", "repeats")
        result = {
            "machine": machine(),
            "settings": {name: getattr(args, name) for name in names},
            "sources": sources,
            "step_seconds": {"x".join(map(str, shape)): s for shape, s in seconds.items()},
        }
        earlier = json.loads(args.output.read_text()) if args.output.exists() else {}
        earlier[f"MICROBATCHES={args.microbatches}"] = result
        args.output.write_text(json.dumps(earlier, indent=1) + "\n")


if __name__ == "__main__":
    command.run(main)
