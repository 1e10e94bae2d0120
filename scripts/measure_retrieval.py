"""Does tuning the query side help an embedding model that is good already, and what does it cost?

    python scripts/measure_retrieval.py --model all-MiniLM-L6-v2 --data DATA \\
        --output scripts/results/retrieval.json
    python scripts/measure_retrieval.py --show --output scripts/results/retrieval.json

DATA holds squad/dev-v1.1.json, and, to see what becomes of other queries, glue/QQP/train.tsv. A
question of SQuAD's development set is to find its paragraph among all
paragraphs; articles are divided into train, dev and test. A prompt, LoRA on the query side and a
tuned copy of the whole query side train on the same batches, by the same loss, against the same
documents' vectors. Each method's rate is the best of --rates on dev, then all seeds run; settings
are fixed beforehand. --output is written after each job, and what it holds is not run again.
"""

import argparse
import collections
import json
import platform
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import kept_record
import numpy as np
from rich.console import Console
from rich.table import Table

import prompt_tuning_jax as pt
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.data.collection import Collection, read_collection
from prompt_tuning_jax.evaluation.retrieval.store import Store, load_store, make_store, save_store
from prompt_tuning_jax.training.retrieval.scoring import scores_of

CONSOLE = Console(width=110)
RATES = {
    "prompt": (0.01, 0.03),
    "lora": (0.0003, 0.001),
    "full": (0.00001, 0.00005),
}
METHODS = {"lora": "lora", "full": "model"}  # as `--method` has them
METRICS = ("mrr@10", "recall@1", "recall@10")
SHARES = {"train": 0.5, "dev": 0.15, "test": 0.35}  # of the articles


# --- the collections


def write(folder: Path, documents: Mapping, queries: Mapping, qrels: Mapping) -> None:
    """A collection in BEIR's form."""
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    for split, pairs in qrels.items():
        rows = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t1" for q, d in pairs)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n")


def squad(data: Path, folder: Path) -> None:
    """Question -> paragraph; the articles of a split are of no other."""
    articles = json.loads((data / "squad" / "dev-v1.1.json").read_text())["data"]
    random.Random(0).shuffle(articles)
    bounds = np.cumsum([0, *SHARES.values()]) * len(articles)
    documents, queries, qrels = {}, {}, collections.defaultdict(list)
    for split, first, last in zip(SHARES, bounds[:-1], bounds[1:], strict=True):
        for article in articles[round(first) : round(last)]:
            for paragraph in article["paragraphs"]:
                key = f"p{len(documents)}"
                documents[key] = paragraph["context"]
                for question in paragraph["qas"]:
                    queries[question["id"]] = question["question"].strip()
                    qrels[split].append((question["id"], key))
    rng = random.Random(1)
    write(folder, documents, queries, {s: rng.sample(p, len(p)) for s, p in qrels.items()})


def qqp(data: Path, folder: Path) -> None:
    """Question -> the question that says the same, among all second questions."""
    lines = (data / "glue" / "QQP" / "train.tsv").read_text().splitlines()[1:]
    documents, queries, pairs = {}, {}, []
    for i, line in enumerate(lines):
        one, other, same = line.split("\t")
        documents[f"d{i}"] = other
        if same == "1" and len(pairs) < 500:
            queries[f"q{i}"] = one
            pairs.append((f"q{i}", f"d{i}"))
    write(folder, documents, queries, {"test": pairs})


OTHERS = {"QQP": qqp}


class Side:
    """A collection and its documents' vectors, of which queries are asked."""

    def __init__(self, folder: Path, model: pt.EmbeddingModel, split: str, limit: int):
        self.collection = read_collection(folder)
        self.store = stored(self.collection, model, folder)
        grades = self.collection.split(split)
        self.grades = dict(list(grades.items())[:limit])

    def scores(self, model: pt.EmbeddingModel, prompt: Any = None) -> dict[str, float]:
        texts = [self.collection.queries[query] for query in self.grades]
        return scores_of(model.embed(texts, prompt), self.grades, self.store, METRICS)


def stored(collection: Collection, model: pt.EmbeddingModel, folder: Path) -> Store:
    if not (folder / "index").exists():
        vectors = model.embed(list(collection.documents.values()))
        made = make_store(collection.documents, vectors, model)
        save_store(made, folder / "index")
    return load_store(folder / "index")


# --- the methods


def trained(
    args: argparse.Namespace,
    model: pt.EmbeddingModel,
    folder: Path,
    method: str,
    rates: Sequence[float],
    seeds: Sequence[int],
) -> Iterator[tuple[Any, pt.EmbeddingModel]]:
    """The query side after the last step, for each (rate, seed): a prompt, or a tuned model."""
    runs = {
        f"run{i}": {"learning_rate": r, "seed": s}
        for i, (r, s) in enumerate(zip(rates, seeds, strict=True))
    }
    with tempfile.TemporaryDirectory() as directory:
        common = settings(args, folder) | own_settings(args, method) | {"model": model}
        if method != "full":
            pt.train_many(runs, **common, model_dir=directory)
        for name, own in runs.items():
            place = Path(directory) / name
            if method == "full":  # runs together share all weights
                pt.train(**common, **own, model_dir=place)
            if method == "prompt":
                yield pt.load_prompt(place / "last"), model
            else:
                yield None, model.adapted(place / "last")


def settings(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    return {
        "task_kind": "retrieval",
        "data_dir": str(folder),
        "index": str(folder / "index"),
        "train_steps": args.steps,
        "eval_period": args.steps,
        "eval_limit": 8,  # dev is asked below, of all methods alike
        "checkpoint_period": args.steps,
        "batch_size": args.batch_size,
        "hard_negatives": args.hard_negatives,
        "quiet": True,
    }


def own_settings(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """LoRA and the whole query side by AdamW, whose rate falls in a straight line to 0."""
    if method == "prompt":
        return {"prompt_length": args.prompt_length}
    return {"method": METHODS[method], "optimizer": "adamw", "schedule": "linear"}


def job(args: argparse.Namespace, model: pt.EmbeddingModel, method: str, sides: Any) -> Any:
    """The best rate on dev by seed 0, then every seed with it: scores on test and elsewhere."""
    started = time.perf_counter()
    folder, dev, tests = sides
    rates = args.rates or RATES[method]
    by_rate = [
        dev.scores(side, prompt)[METRICS[0]]
        for prompt, side in trained(args, model, folder, method, rates, [0] * len(rates))
    ]
    rate = rates[int(np.argmax(by_rate))]
    scores = []
    for prompt, side in trained(
        args, model, folder, method, [rate] * args.seeds, range(args.seeds)
    ):
        scores.append({name: test.scores(side, prompt) for name, test in tests.items()})
    return {
        "dev_by_rate": dict(zip(map(str, rates), by_rate, strict=True)),
        "rate": rate,
        "scores": scores,
        "seconds": round(time.perf_counter() - started, 1),
    }


def show(found: Mapping[str, Any]) -> None:
    """A row for each method: the mean over seeds, and the worst seed."""
    names = list(found["untuned"])
    columns = [(name, metric) for name in names for metric in METRICS]
    table = Table("query side", "rate", *(f"{name} {metric}" for name, metric in columns))
    table.add_row("untuned", "", *(f"{found['untuned'][n][m]:.1f}" for n, m in columns))
    for method, one in found["methods"].items():
        cells = []
        for name, metric in columns:
            each = [scores[name][metric] for scores in one["scores"]]
            cells.append(f"{np.mean(each):.1f} ({min(each):.1f})")
        table.add_row(method, f"{one['rate']:g}", *cells)
    CONSOLE.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a directory of sentence-transformers'")
    parser.add_argument("--data", type=Path, help="the folder of squad/ and glue/QQP/")
    parser.add_argument("--work", type=Path, help="where collections and vectors are kept")
    parser.add_argument("--methods", nargs="+", choices=list(RATES), default=list(RATES))
    parser.add_argument("--rates", nargs="+", type=float, help="instead of the methods' own")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--prompt_length", type=int, default=8)
    parser.add_argument("--hard_negatives", type=int, default=2)
    parser.add_argument("--limit", type=int, default=300, help="queries of dev")
    parser.add_argument("--test_limit", type=int, default=1000, help="queries of test")
    kept_record.add_options(parser)
    return parser.parse_args()


def measure(args: argparse.Namespace, found: dict[str, Any]) -> None:
    command.use_compilation_cache()
    model = pt.load_embedding_model(args.model)
    work = args.work or Path(tempfile.mkdtemp())
    for name, make in {"SQuAD": squad, **OTHERS}.items():
        if not (work / name).exists():
            make(args.data, work / name)
    dev = Side(work / "SQuAD", model, "validation", args.limit)
    tests = {name: Side(work / name, model, "test", args.test_limit) for name in ("SQuAD", *OTHERS)}
    names = ("steps", "seeds", "batch_size", "prompt_length", "hard_negatives", "test_limit")
    found["settings"] = {name: getattr(args, name) for name in names} | {
        "model": Path(args.model).name,
        "jax": jax.__version__,
        "machine": platform.processor() or platform.machine(),
        "documents": {name: len(side.store) for name, side in tests.items()},
        "queries": {name: len(side.grades) for name, side in tests.items()},
    }
    found["untuned"] = {name: side.scores(model) for name, side in tests.items()}
    methods = found.setdefault("methods", {})
    for method in args.methods:
        if method not in methods:
            methods[method] = job(args, model, method, (work / "SQuAD", dev, tests))
            CONSOLE.print(method, methods[method])
        kept_record.save(args, found)


def main() -> None:
    kept_record.measure_or_show(parse_arguments(), measure, show)


if __name__ == "__main__":
    main()
