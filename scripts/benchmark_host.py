"""Does the host keep up? Examples and tokens per second of making training batches, by stage.

    read       records from a file in the order of an epoch, and the texts that templates make
    tokenise   texts to ids, texts that were never seen
    again      the same texts once more, as in the next epoch
    batch      ids to padded arrays, each batch of examples of similar length
    transfer   arrays to the device
    whole      all of it as in training: batches are made by a thread while others are transferred;
               the first epoch, and `whole again` the second

on SuperGLUE's files and, for tasks that superglue_lengths.json counts, on made-up prose of those
lengths. Examples per second are by the clock, which other programs on the machine slow down, and by
the time that processors were at work, all threads together: what one core would do alone.
`times_needed` is the latter of `whole` over what a step consumes that takes --positions_per_second
encoder positions, the prompt's among them.

    python scripts/benchmark_host.py --vocabulary t5/spiece.model --data_dir superglue \\
        --output scripts/results/host.json
    python scripts/benchmark_host.py        # made-up prose, and the bundled model's vocabulary
"""

import argparse
import gc
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from benchmark import machine
from benchmark_encoding import blocks
from benchmark_packing import LENGTHS, draw
from rich.console import Console
from rich.table import Table

from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS, bundled_examples
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.data.batches import TrainBatches
from prompt_tuning_jax.data.encoding import Batch, Encoder
from prompt_tuning_jax.data.files import file_task
from prompt_tuning_jax.data.prefetch import Prefetcher
from prompt_tuning_jax.data.task import ExampleList, Source
from prompt_tuning_jax.vocabularies import Vocabulary, load_vocabulary

CONSOLE = Console(width=110)
# Name -> the file below --data_dir, and the template of its inputs.
FILES = {
    "BoolQ": ("BoolQ/val.jsonl", "boolq passage: {passage} question: {question}"),
    "RTE": ("RTE/train.jsonl", "rte hypothesis: {hypothesis} premise: {premise}"),
    "WiC": (
        "WiC/train.jsonl",
        "wic sentence1: {sentence1} sentence2: {sentence2} word: {word}",
    ),
}
MADE_UP = 4096  # examples of made-up prose
FASTEST = 79_000  # positions per second of XL: 64 x (64 + 100) in 0.133 s, 32 x (512 + 100) in 0.25
Spent = tuple[float, float]  # seconds by the clock, and of all processors
Stages = dict[str, Spent]


def make_prose(
    measured: Mapping[str, Any], folder: Path, vocabulary: Vocabulary
) -> dict[str, Path]:
    """A file of records for each task, whose texts have about as many tokens as the task's."""
    texts = (e["inputs"] for name in BUNDLED_TASKS for e in bundled_examples(name, "train"))
    ids = np.concatenate(vocabulary.encode_batch(list(itertools.islice(texts, 4000))))
    rng, paths = np.random.default_rng(0), {}
    for name, counted in measured.items():
        paths[name] = folder / f"{name}.jsonl"
        with paths[name].open("w") as file:
            for length in draw(counted["inputs"], MADE_UP, rng).tolist():
                first = int(rng.integers(len(ids) - length))
                text = vocabulary.decode(ids[first : first + length - 1].tolist())
                file.write(json.dumps({"text": text, "label": "true"}) + "\n")
    return paths


def sources(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Source]]:
    """Files of records as a training run reads them; each is indexed already."""
    if args.data_dir:
        for name, (file, template) in FILES.items():
            yield name, training_split(args.data_dir / file, template)
    measured = json.loads(LENGTHS.read_text())
    measured = {name: measured[name] for name in args.made_up}
    for name, path in make_prose(measured, folder, load_vocabulary(args.vocabulary)).items():
        yield f"{name}, made up", training_split(path, "{text}")


def training_split(path: Path, template: str) -> Source:
    source = file_task(train=path, input_template=template, target_template="{label}")
    return source.split("train")


def now() -> Spent:
    return time.perf_counter(), time.process_time()


def since(start: Spent) -> Spent:
    return time.perf_counter() - start[0], time.process_time() - start[1]


def seconds(work: Callable[[], Any]) -> tuple[Spent, Any]:
    gc.collect()
    start = now()
    result = work()
    return since(start), result


def measure(source: Source, args: argparse.Namespace) -> tuple[Stages, dict[str, float]]:
    """Seconds of each stage for one epoch, and what the epoch holds."""
    vocabulary = load_vocabulary(args.vocabulary)
    vocabulary.encode("made ready")
    lengths = {"inputs": args.inputs, "targets": args.targets}
    common = {"batch_size": args.batch, "lengths": lengths, "seed": 0}
    stages: Stages = {}
    stages["read"], examples = seconds(lambda: list(source.stream(seed=0, epoch=0)))
    encoder = Encoder(vocabulary, lengths)
    stages["tokenise"], pairs = seconds(lambda: encode(encoder, examples))
    stages["again"], _ = seconds(lambda: encode(encoder, examples))
    ids = ExampleList({"inputs": np.array(i), "targets": np.array(t)} for i, t in pairs)
    number = len(ids) // args.batch
    ready = TrainBatches(ids, vocabulary, **common)
    stages["batch"], batches = seconds(lambda: list(itertools.islice(ready, number)))
    stages["transfer"], _ = seconds(lambda: transfer(batches))
    fresh = TrainBatches(source, load_vocabulary(args.vocabulary), **common)
    stages["whole"], stages["whole again"] = two_epochs(fresh, number)
    return stages, {
        "examples": number * args.batch,
        "tokens_per_example": sum(len(i) + len(t) for i, t in pairs) / len(pairs),
        "positions_per_example": float(np.mean([positions(batch) for batch in batches])),
    }


def encode(encoder: Encoder, examples: Sequence[Any]) -> list[Any]:
    return [pair for block in blocks(examples) for pair in encoder.pairs(block)]


def transfer(batches: Iterable[Batch]) -> None:
    for batch in batches:
        jax.block_until_ready(jax.device_put(batch))


def two_epochs(batches: TrainBatches, number: int) -> Iterator[Spent]:
    """Seconds of the first epoch and of the second, of so many batches each."""
    gc.collect()
    start = now()
    with Prefetcher(batches) as prefetched:
        for _ in range(2):
            transfer(batch for batch, _ in itertools.islice(prefetched, number))
            yield since(start)
            start = now()


def positions(batch: Batch) -> int:
    """Of each example, the encoder's, without the prompt's."""
    return batch["encoder_input_tokens"].shape[1]


def summarise(turns: Sequence[Stages], epoch: Mapping[str, float], args: argparse.Namespace) -> Any:
    """Rates, the median of turns, and how often a step's need `whole` covers."""
    examples, tokens = epoch["examples"], epoch["tokens_per_example"]
    stages = {}
    for stage in turns[0]:
        each = zip(*(turn[stage] for turn in turns), strict=True)
        by_clock, by_core = (examples / statistics.median(spent) for spent in each)
        stages[stage] = {
            "examples_per_second": round(by_clock),
            "tokens_per_second": round(by_clock * tokens),
            "examples_per_core_second": round(by_core),
            "tokens_per_core_second": round(by_core * tokens),
        }
    needed = args.positions_per_second / (epoch["positions_per_example"] + args.prompt)
    covered = {
        stage: round(stages[stage]["examples_per_core_second"] / needed, 1)
        for stage in ("whole", "whole again")
    }
    return {**epoch, "stages": stages, "examples_needed": round(needed), "times_needed": covered}


def show(found: Mapping[str, Any]) -> None:
    stages = list(next(iter(found.values()))["stages"])
    table = Table("examples /s of a core", *stages, "needed", "times needed, again")
    for name, figures in found.items():
        rates = [f"{figures['stages'][stage]['examples_per_core_second']:,}" for stage in stages]
        covered = ", ".join(map(str, figures["times_needed"].values()))
        table.add_row(name, *rates, f"{figures['examples_needed']:,}", covered)
    CONSOLE.print(table)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own = BUNDLED / "spiece.model"
    parser.add_argument("--vocabulary", type=Path, default=own, help="whatever the library reads")
    parser.add_argument("--data_dir", type=Path, help="holds BoolQ/val.jsonl, RTE/train.jsonl, ...")
    tasks = json.loads(LENGTHS.read_text())
    parser.add_argument(
        "--made_up", nargs="*", choices=tasks, default=["boolq", "multirc", "wic"], help="tasks"
    )
    parser.add_argument("--batch", type=int, default=32, help="examples in a step")
    parser.add_argument("--inputs", type=int, default=512, help="the longest input")
    parser.add_argument("--targets", type=int, default=8, help="the longest target")
    parser.add_argument("--prompt", type=int, default=100, help="prompt positions")
    parser.add_argument("--positions_per_second", type=float, default=FASTEST, help="of a step")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_arguments()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, source in sources(args, Path(folder)):
            turns, epochs = zip(*(measure(source, args) for _ in range(args.repeats)), strict=True)
            found[name] = summarise(turns, epochs[0], args)
    show(found)
    if args.output:
        settings = ("batch", "inputs", "targets", "prompt", "positions_per_second", "repeats")
        result = {
            "machine": machine(),
            "device": jax.local_devices()[0].device_kind,
            "settings": {name: getattr(args, name) for name in settings},
            "vocabulary": str(load_vocabulary(args.vocabulary)),
            "sources": found,
        }
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    command.run(main)
