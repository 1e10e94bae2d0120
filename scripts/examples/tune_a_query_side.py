"""Texts learn to lie near the right one of some documents, which stay as they are: two minutes.

The documents are the labels of a bundled task, so that the nearest is an answer; the bundled T5's
encoder makes the vectors. Works alike with any embedding model and your own files.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import prompt_tuning_jax as pt
from prompt_tuning_jax.bundled.tasks import TOPICS, bundled_task

SIZES = {"train": 600, "validation": 150}


def write_collection(folder: Path) -> None:
    """A collection as prompt_tuning_jax/evaluation/retrieval/README.md has it."""
    (folder / "qrels").mkdir(parents=True)
    labels = [json.dumps({"_id": topic, "text": f"This is about a {topic}."}) for topic in TOPICS]
    (folder / "corpus.jsonl").write_text("\n".join(labels))
    queries = []
    for split, count in SIZES.items():
        pairs = ["query-id\tcorpus-id"]
        examples = bundled_task("bundled_topic").split(split)
        for i, example in enumerate(itertools.islice(examples, count)):
            queries.append(json.dumps({"_id": f"{split}{i}", "text": example["inputs"]}))
            pairs.append(f"{split}{i}\t{example['targets']}")
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(pairs))
    (folder / "queries.jsonl").write_text("\n".join(queries))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_collection(Path(folder) / "data")
        where = {"data_dir": f"{folder}/data", "model_dir": f"{folder}/run"}
        how = {"prompt_length": 10, "train_steps": 80, "eval_period": 20, "batch_size": 24}
        pt.train(task_kind="retrieval", metric="recall@1", **where, **how)


if __name__ == "__main__":
    main()
