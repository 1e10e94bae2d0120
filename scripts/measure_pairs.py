"""Do two texts say the same? A prompt before one of them, before both, and none, on real pairs.

    python scripts/measure_pairs.py --model all-MiniLM-L6-v2 --data DATA \\
        --output scripts/results/pairs.json
    python scripts/measure_pairs.py --show --output scripts/results/pairs.json

DATA holds QQP (Quora's questions: train.tsv and dev.tsv), MRPC (sentences of news: train.tsv,
dev.tsv and msr_paraphrase_test.txt) and STS-B (the STS benchmark: stsb-en-train.csv, -dev and
-test, as https://github.com/PhilipMay/stsb-multi-mt has them). The cosine of two vectors says how
alike the texts are. Where a pair is the same or is not: average precision, and accuracy at the
threshold that is best on validation; where people gave scores, Spearman's and Pearson's
correlations with them. Settings are fixed beforehand: validation chooses the step, and the test
pairs are compared once. --output is written after each row, and what it holds is not run again.
"""

import argparse
import csv
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import kept_record
import numpy as np
from rich.console import Console
from rich.table import Table

import prompt_tuning_jax as pt
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.evaluation.retrieval.metrics import CORRELATIONS, SAME, compare_pairs

Pairs = Sequence[tuple[str, str, float]]
ACCURACY = "accuracy"
BINARY, GRADED = (SAME, ACCURACY), tuple(CORRELATIONS)
ROWS = {"as it is": None, "a prompt before one": "query", "a prompt before both": "both"}


def read(path: Path, one: str, other: str, same: str) -> Pairs:
    with open(path, encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row[one].strip(), row[other].strip(), int(row[same])) for row in rows]


def qqp(data: Path, held_out: int) -> dict[str, Pairs]:
    """The file of dev is the test, and of train's pairs some are validation."""
    names = "question1", "question2", "is_duplicate"
    pairs = read(data / "QQP" / "train.tsv", *names)
    random.Random(0).shuffle(pairs)
    test = read(data / "QQP" / "dev.tsv", *names)
    return {"train": pairs[held_out:], "validation": pairs[:held_out], "test": test}


def mrpc(data: Path, held_out: int) -> dict[str, Pairs]:
    names = "#1 String", "#2 String", "Quality"
    files = {"train": "train.tsv", "validation": "dev.tsv", "test": "msr_paraphrase_test.txt"}
    parts = {split: read(data / "MRPC" / file, *names) for split, file in files.items()}
    for split in ("train", "test"):
        random.Random(0).shuffle(parts[split])
    return parts | {"validation": parts["validation"][:held_out]}


def sts(data: Path, held_out: int) -> dict[str, Pairs]:
    """Scores from 0 to 5. A file has one source after another, so what is cut is shuffled."""
    parts = {}
    for split, file in {"train": "train", "validation": "dev", "test": "test"}.items():
        with open(data / "STS-B" / f"stsb-en-{file}.csv", encoding="utf-8", newline="") as rows:
            parts[split] = [(a, b, float(score)) for a, b, score in csv.reader(rows)]
    for split in ("train", "validation"):
        random.Random(0).shuffle(parts[split])
    return parts | {"validation": parts["validation"][:held_out]}


SETS = {"QQP": (qqp, BINARY), "MRPC": (mrpc, BINARY), "STS-B": (sts, GRADED)}


def cut(args: argparse.Namespace, name: str) -> dict[str, Pairs]:
    read_parts, metrics = SETS[name]
    parts = read_parts(args.data, args.held_out)
    return {
        "train": parts["train"][: args.examples],
        "validation": parts["validation"],
        "test": parts["test"] if metrics == GRADED else parts["test"][: args.test_limit],
    }


def tuned(
    args: argparse.Namespace,
    model: pt.EmbeddingModel,
    parts: Mapping[str, Pairs],
    sides: str,
    metric: str,
    seed: int,
) -> pt.TunedPrompt:
    """The best prompt by a metric on validation."""
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "validation"):
            pairs = [{"text_a": a, "text_b": b, "score": same} for a, b, same in parts[split]]
            lines = "\n".join(map(json.dumps, pairs))
            (Path(folder) / f"{split}.jsonl").write_text(lines + "\n")
        names = ("prompt_length", "batch_size", "hard_negatives", "eval_period")
        how = {name: getattr(args, name) for name in names} | {"train_steps": args.steps}
        how |= {"task_kind": "retrieval", "sides": sides, "metric": metric, "seed": seed}
        where = {"data_dir": folder, "model_dir": f"{folder}/run", "quiet": True}
        return pt.train(model=model, **how, **where).prompt


def vectors_of(
    model: pt.EmbeddingModel, pairs: Pairs, sides: str | None, prompt: pt.TunedPrompt | None
) -> tuple[np.ndarray, np.ndarray]:
    one = model.embed([pair[0] for pair in pairs], prompt)
    return one, model.embed([pair[1] for pair in pairs], prompt if sides == "both" else None)


def scores(
    model: pt.EmbeddingModel,
    parts: Mapping[str, Pairs],
    sides: str | None,
    prompt: pt.TunedPrompt | None,
    metrics: Sequence[str],
) -> dict[str, float]:
    """Of the test pairs."""
    splits = ("validation", "test")
    made = {split: vectors_of(model, parts[split], sides, prompt) for split in splits}
    golden = {split: np.array([pair[2] for pair in parts[split]]) for split in splits}
    of_pairs = [name for name in metrics if name != ACCURACY]
    found = compare_pairs(*made["test"], golden["test"].tolist(), of_pairs)
    if ACCURACY in metrics:
        found[ACCURACY] = accuracy(made, golden)
    return {name: round(x, 2) for name, x in found.items()}


def accuracy(
    made: Mapping[str, tuple[np.ndarray, np.ndarray]], golden: Mapping[str, np.ndarray]
) -> float:
    """In percent, of the test pairs, at the threshold that is best on validation."""
    alike = {split: (one * other).sum(axis=1) for split, (one, other) in made.items()}
    bounds = np.sort(alike["validation"])
    right = [np.mean((alike["validation"] >= b) == golden["validation"]) for b in bounds]
    bound = bounds[int(np.argmax(right))]
    return 100 * float(np.mean((alike["test"] >= bound) == golden["test"]))


def measure(args: argparse.Namespace, found: dict[str, Any]) -> None:
    command.use_compilation_cache()
    model = pt.load_embedding_model(args.model)
    names = ("examples", "held_out", "test_limit", "prompt_length", "steps", "eval_period")
    settings = {name: getattr(args, name) for name in (*names, "batch_size", "hard_negatives")}
    settings |= {"seeds": args.seeds, "model": args.name, "jax": jax.__version__}
    if found.setdefault("settings", settings) != settings:
        raise SystemExit(f"{args.output} is of other settings: name another file.")
    for name, (_, metrics) in SETS.items():
        parts, rows = cut(args, name), found.setdefault("scores", {}).setdefault(name, {})
        for row, sides in ROWS.items():
            if row in rows:
                continue
            started, each = time.process_time(), []
            for seed in range(1 if sides is None else args.seeds):
                prompt = (
                    None if sides is None else tuned(args, model, parts, sides, metrics[0], seed)
                )
                each.append(scores(model, parts, sides, prompt, metrics))
            rows[row] = {"seeds": each, "cpu_seconds": round(time.process_time() - started)}
            Console().print(name, row, rows[row])
            kept_record.save(args, found)


def show(found: Mapping[str, Any]) -> None:
    """The mean over seeds, and the worst."""
    table = Table("prompt", *(f"{name} {m}" for name in SETS for m in SETS[name][1]))
    kept = [row for row in ROWS if all(row in found["scores"].get(name, {}) for name in SETS)]
    for row in kept:
        cells = []
        for name in SETS:
            for metric in SETS[name][1]:
                each = [seed[metric] for seed in found["scores"][name][row]["seeds"]]
                worst = f" ({min(each):.1f})" if len(each) > 1 else ""
                cells.append(f"{np.mean(each):.1f}{worst}")
        table.add_row(row, *cells)
    Console(width=110).print(table)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="an embedding model")
    parser.add_argument("--name", default="all-MiniLM-L6-v2", help="what the record calls it")
    parser.add_argument("--data", type=Path, help="the folder of QQP/, MRPC/ and STS-B/")
    parser.add_argument("--examples", type=int, default=600, help="pairs of train")
    parser.add_argument("--held_out", type=int, default=200, help="pairs of validation")
    parser.add_argument("--test_limit", type=int, default=500, help="pairs of test")
    parser.add_argument("--prompt_length", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--eval_period", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--hard_negatives", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    kept_record.add_options(parser)
    kept_record.measure_or_show(parser.parse_args(argv), measure, show)


if __name__ == "__main__":
    main()
