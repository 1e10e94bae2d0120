"""How fast are texts made token ids, one by one and in blocks?

    before    one text at a time, by SentencePiece alone
    first     in blocks, texts that were never seen
    again     in blocks, the same texts once more, as in the next epoch or evaluation

for lines alone, and for examples: lines with one of two labels as targets, each closed with EOS.
The ways take turns, each turn begins with a vocabulary that has seen nothing, and ids are compared.

    python scripts/benchmark_encoding.py --lines glue/SST-2/train.tsv --vocabulary t5/spiece.model
    python scripts/benchmark_encoding.py        # lines of the bundled tasks, the bundled model's
"""

import argparse
import gc
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from benchmark import machine

from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS, bundled_examples
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.data.batches import BLOCK
from prompt_tuning_jax.data.encoding import Encoder
from prompt_tuning_jax.vocabularies import Vocabulary, load_vocabulary

LENGTHS = {"inputs": 512, "targets": 16}
LABELS = ("negative", "positive")
Ids = list[list[int]]


def read_lines(path: Path | None, count: int) -> list[str]:
    """The first column of a .tsv file without its header, or inputs of the bundled tasks."""
    if path is not None:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        return [line.partition("\t")[0] for line in lines[:count]]
    splits = (bundled_examples(name, "train") for name in BUNDLED_TASKS)
    examples = itertools.chain.from_iterable(splits)
    return [example["inputs"] for example in itertools.islice(examples, count)]


def blocks(values: list[Any]) -> list[list[Any]]:
    return [values[i : i + BLOCK] for i in range(0, len(values), BLOCK)]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def encode_lines(vocabulary: Vocabulary, lines: list[str]) -> Ids:
    return [ids for block in blocks(lines) for ids in vocabulary.encode_batch(block)]


def encode_examples(vocabulary: Vocabulary, examples: list[dict[str, str]]) -> Ids:
    encoder = Encoder(vocabulary, LENGTHS)
    pairs = (pair for block in blocks(examples) for pair in encoder.pairs(block))
    return [ids for pair in pairs for ids in pair]


def measure(args: argparse.Namespace, lines: list[str]) -> dict[str, dict[str, list[float]]]:
    """Seconds of each turn, of lines and of examples."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(args.before))
    labels = itertools.cycle(LABELS)
    examples = [{"inputs": line, "targets": next(labels)} for line in lines]

    def one_by_one() -> Ids:
        return [model.encode(line, out_type=int) for line in lines]

    def examples_one_by_one() -> Ids:
        eos = model.eos_id()
        return [[*model.encode(e[f], out_type=int), eos] for e in examples for f in LENGTHS]

    kinds = {
        "lines": (one_by_one, lambda vocabulary: encode_lines(vocabulary, lines)),
        "examples": (examples_one_by_one, lambda voc: encode_examples(voc, examples)),
    }
    found: dict[str, dict[str, list[float]]] = {}
    for _, (kind, (before, now)) in itertools.product(range(args.repeats), kinds.items()):
        vocabulary = load_vocabulary(args.vocabulary)
        vocabulary.encode("made ready")
        turn = {"before": before, "first": lambda v=vocabulary, f=now: f(v)}
        turn["again"] = turn["first"]
        expected: Ids | None = None
        for way, work in turn.items():
            duration, ids = seconds(work)
            expected = ids if expected is None else expected
            others = sum(a != b for a, b in zip(ids, expected, strict=True))
            if others and args.before == args.vocabulary:
                raise ValueError(f"{kind}: {others} of {len(ids)} have other ids by {way!r}.")
            found.setdefault(kind, {}).setdefault(way, []).append(duration)
    return found


def summarise(found: dict[str, dict[str, list[float]]], count: int) -> dict[str, Any]:
    """Medians of microseconds for each line or example, and of how many times faster."""
    summary: dict[str, Any] = {}
    for kind, ways in found.items():
        for way, turns in ways.items():
            pairs = zip(ways["before"], turns, strict=True)
            summary.setdefault(kind, {})[way] = {
                "microseconds": round(statistics.median(turns) / count * 1e6, 2),
                "times_as_fast": round(statistics.median(b / t for b, t in pairs), 2),
            }
    return summary


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own = BUNDLED / "spiece.model"
    parser.add_argument("--lines", type=Path, help="a .tsv file; its first column is read")
    parser.add_argument("--count", type=int, default=20_000, help="of lines at most")
    parser.add_argument("--vocabulary", type=Path, default=own, help="whatever the library reads")
    before = "a spiece.model, whose ids are not compared; default: VOCABULARY"
    parser.add_argument("--before", type=Path, help=before)
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--output", type=Path, help="JSON file for the figures; adds to it")
    args = parser.parse_args(argv)
    args.before = args.before or args.vocabulary
    return args


def main() -> None:
    args = parse_arguments()
    lines = read_lines(args.lines, args.count)
    summary = summarise(measure(args, lines), len(lines))
    print(json.dumps(summary, indent=1))
    if args.output:
        earlier = json.loads(args.output.read_text()) if args.output.exists() else {}
        source = args.lines.parent.name if args.lines else "bundled tasks"
        earlier[f"{source}, {load_vocabulary(args.vocabulary)}"] = {
            "machine": machine(),
            "settings": {"lines": len(lines), "repeats": args.repeats},
            **summary,
        }
        args.output.write_text(json.dumps(earlier, indent=1) + "\n")


if __name__ == "__main__":
    command.run(main)
