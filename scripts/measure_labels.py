"""Classification by the nearest label: a tuned prompt, and beside it a small head on the vectors.

    python scripts/measure_labels.py --model all-MiniLM-L6-v2 --data DATA/glue/SST-2 \\
        --labels "a bad film" "a good film" --output scripts/results/labels.json

DATA/glue/SST-2 holds train.tsv and dev.tsv with the columns sentence and label, a label's number.
--examples sentences of train.tsv, drawn by the seed, train and --held_out others choose; dev.tsv is
the test. Rows: the label nearest to a sentence by the model as it is, by a prompt before sentences,
and by one before labels too; and scikit-learn's logistic regression on the model's vectors, which a
prompt must beat to be worth it. The same examples for all; settings are fixed beforehand.
"""

import argparse
import csv
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression

import prompt_tuning_jax as pt
from prompt_tuning_jax.commands import command

STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # C of the regression; those held out choose
Examples = Sequence[tuple[str, int]]


def read(path: Path) -> Examples:
    """Sentences, each once, and their labels."""
    with open(path, encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return list({row["sentence"].strip(): int(row["label"]) for row in rows}.items())


def divided(args: argparse.Namespace, seed: int) -> dict[str, Examples]:
    test = read(args.data / "dev.tsv")
    known = {text for text, _ in test}
    others = [one for one in read(args.data / "train.tsv") if one[0] not in known]
    drawn = random.Random(seed).sample(others, args.examples + args.held_out)
    train, validation = drawn[: args.examples], drawn[args.examples :]
    return {"train": train, "validation": validation, "test": test}


def accuracy(found: np.ndarray, examples: Examples) -> float:
    return 100 * float(np.mean(found == np.array([label for _, label in examples])))


def by_nearest(
    args: argparse.Namespace, model: pt.EmbeddingModel, parts: Mapping, seed: int, sides: str | None
) -> float:
    """Of the label nearest to each sentence, after tuning where `sides` says which."""
    prompt = None
    if sides is not None:
        with tempfile.TemporaryDirectory() as folder:
            for split in ("train", "validation"):
                pairs = [{"text_a": x, "text_b": args.labels[label]} for x, label in parts[split]]
                lines = [json.dumps(pair) for pair in pairs]
                (Path(folder) / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
            how = {"prompt_length": args.prompt_length, "train_steps": args.steps, "quiet": True}
            how |= {"eval_period": args.eval_period, "batch_size": args.batch_size, "seed": seed}
            where = {"data_dir": folder, "model_dir": f"{folder}/run"}
            task = {"task_kind": "retrieval", "sides": sides, "metric": "recall@1"}
            prompt = pt.train(model=model, **task, **how, **where).prompt
    texts = [text for text, _ in parts["test"]]
    labels = model.embed(args.labels, prompt if sides == "both" else None)
    return accuracy((model.embed(texts, prompt) @ labels.T).argmax(axis=1), parts["test"])


def by_head(model: pt.EmbeddingModel, parts: Mapping) -> float:
    """Of a logistic regression on the vectors as they are."""
    vectors = {name: model.embed([text for text, _ in part]) for name, part in parts.items()}
    targets = [label for _, label in parts["train"]]
    heads = [
        LogisticRegression(C=strength, max_iter=1000).fit(vectors["train"], targets)
        for strength in STRENGTHS
    ]
    scores = {
        name: [accuracy(head.predict(vectors[name]), parts[name]) for head in heads]
        for name in ("validation", "test")
    }
    return scores["test"][int(np.argmax(scores["validation"]))]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    command.use_compilation_cache()
    model = pt.load_embedding_model(args.model)
    names = ("labels", "examples", "held_out", "prompt_length", "steps", "eval_period", "seeds")
    settings = {name: getattr(args, name) for name in (*names, "batch_size")}
    settings |= {"model": args.name, "data": args.data.name, "jax": jax.__version__}
    found: dict[str, Any] = {"settings": settings, "accuracy": {}}
    for seed in range(args.seeds):
        parts = divided(args, seed)
        one = {
            "the nearest label": by_nearest(args, model, parts, seed, None),
            "a prompt before sentences": by_nearest(args, model, parts, seed, "query"),
            "a prompt before both": by_nearest(args, model, parts, seed, "both"),
            "a head on the vectors": by_head(model, parts),
        }
        for row, score in one.items():
            found["accuracy"].setdefault(row, []).append(round(score, 2))
        if args.output:
            args.output.write_text(json.dumps(found, indent=1) + "\n")
    return found


def show(found: Mapping[str, Any]) -> None:
    """The mean over seeds, and the worst."""
    table = Table("classified by", "accuracy", "worst seed")
    for row, scores in found["accuracy"].items():
        table.add_row(row, f"{np.mean(scores):.1f}", f"{min(scores):.1f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="an embedding model")
    parser.add_argument("--name", default="all-MiniLM-L6-v2", help="what the record calls it")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the two files")
    parser.add_argument("--labels", nargs="+", required=True, help="a text for each label, from 0")
    parser.add_argument("--examples", type=int, default=480)
    parser.add_argument("--held_out", type=int, default=200)
    parser.add_argument("--prompt_length", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--eval_period", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    show(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
