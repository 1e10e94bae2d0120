"""MetaMathQA and GSM8K as they are released, as the files of `experiments/metamathqa_gsm8k.gin`.

    python scripts/prepare_metamathqa.py --metamathqa MetaMathQA-395K.json --gsm8k gsm8k \
        --output metamathqa

reads the file of huggingface.co/datasets/meta-math/MetaMathQA, and the train.jsonl and test.jsonl
of github.com/openai/grade-school-math (its folder grade_school_math/data); it writes train.jsonl,
validation.jsonl and test.jsonl, each line a `query` and a `response`. They are what PEFT's
comparison of methods has: of MetaMathQA what is at most 1300 characters long, to train on; the same
50 of GSM8K's training problems to choose a prompt by; and its test.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prompt_tuning_jax.commands import command

LONGEST = 1300  # characters of query and response, with a space between them
HELD_OUT = 50
# Its name of a field -> ours.
METAMATHQA = {"query": "query", "response": "response"}
GSM8K = {"question": "query", "answer": "response"}

Record = dict[str, str]


def metamathqa(file: Path) -> list[Record]:
    """The problems of MetaMathQA that are not too long."""
    problems = _read(file, json.loads(file.read_bytes()), METAMATHQA)
    return [one for one in problems if len(" ".join(one.values())) <= LONGEST]


def gsm8k(file: Path) -> list[Record]:
    """The problems of a file of GSM8K."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return list(_read(file, [json.loads(line) for line in lines], GSM8K))


def _read(file: Path, found: Any, names: Mapping[str, str]) -> Iterator[Record]:
    for number, record in enumerate(found, 1):
        if not isinstance(record, dict) or not names.keys() <= record.keys():
            raise ValueError(
                f"{file}, problem {number}: it has no {' and '.join(names)}. Download the file "
                "again, as it is released."
            )
        yield {ours: str(record[theirs]) for theirs, ours in names.items()}


def held_out(problems: Sequence[Record], count: int = HELD_OUT) -> list[Record]:
    """The first of the problems in the order that PEFT's comparison shuffles them into."""
    order = np.arange(len(problems))
    np.random.RandomState(0).shuffle(order)
    return [problems[place] for place in order[:count]]


def write(file: Path, records: Iterable[Record]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    file.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--metamathqa", type=Path, required=True, help="MetaMathQA-395K.json")
    parser.add_argument("--gsm8k", type=Path, required=True, help="the folder of its two files")
    parser.add_argument("--output", type=Path, required=True, help="the directory to write")
    args = parser.parse_args(argv)
    splits = {
        "train": metamathqa(args.metamathqa),
        "validation": held_out(gsm8k(args.gsm8k / "train.jsonl")),
        "test": gsm8k(args.gsm8k / "test.jsonl"),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    for name, records in splits.items():
        write(args.output / f"{name}.jsonl", records)
        print(f"{name}.jsonl: {len(records)} problems")


if __name__ == "__main__":
    command.run(main)
