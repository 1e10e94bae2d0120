"""How long are SuperGLUE's inputs and targets, in T5's tokens? Numbers only, no texts.

    python scripts/measure_lengths.py --data_dir data --vocabulary sentencepiece.model \\
        --output scripts/results/superglue_lengths.json

For each task, of its training and validation split the one with more examples in --data_dir, and
how many of its inputs and targets have each length (EOS included, nothing cut). Needs the [data]
extra.
"""

import argparse
import collections
import json
from pathlib import Path

from prompt_tuning_jax.commands import command
from prompt_tuning_jax.data.seqio_source import seqio_task
from prompt_tuning_jax.data.task import Source
from prompt_tuning_jax.tasks import settings

TASKS = {
    name: f"taskless_super_glue_{name}_v102"
    for name in ("boolq", "cb", "copa", "multirc", "record", "rte", "wic")
} | {"wsc": "taskless_super_glue_wsc_v102_simple_train"}
SPLITS = ("train", "validation")
UNCUT = {"inputs": 8192, "targets": 1024}


def lengths_of(source: Source) -> dict[str, dict[int, int]]:
    """Feature -> length -> number of examples."""
    counts = {feature: collections.Counter() for feature in UNCUT}
    for example in source.stream(seed=None, epoch=0):
        for feature, lengths in counts.items():
            lengths[len(example[feature])] += 1
    return {feature: dict(sorted(lengths.items())) for feature, lengths in counts.items()}


def measure(name: str) -> dict[str, object]:
    task = seqio_task(
        TASKS[name], module="prompt_tuning_jax.tasks.super_glue", feature_lengths=UNCUT
    )
    found = {split: lengths_of(task.splits[split]) for split in SPLITS if split in task.splits}
    split = max(found, key=lambda split: sum(found[split]["inputs"].values()))
    return {"split": split, "examples": sum(found[split]["inputs"].values()), **found[split]}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="holds superglue/RTE, superglue/CB, ...")
    parser.add_argument("--vocabulary", required=True, help="T5's SentencePiece model")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    with settings.using(data_dir=args.data_dir, vocabulary=args.vocabulary):
        measured = {name: measure(name) for name in TASKS}
    lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in measured.items()]
    args.output.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    command.run(main)
