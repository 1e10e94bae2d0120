"""SQuAD's JSON and MRQA's JSON Lines, read as TFDS gives them: one record a question."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow as tf

from prompt_tuning_jax.tasks.release import AGAIN, field, found, json_lines, lines

TEXT = tf.TensorSpec((), tf.string)
TEXTS = tf.TensorSpec((None,), tf.string)
NUMBERS = tf.TensorSpec((None,), tf.int32)

Object = Mapping[str, Any]


class SquadRelease:
    """SQuAD 1.1's train-v1.1.json and dev-v1.1.json; a `registration.Reader`."""

    files: ClassVar = {"train": "train-v1.1.json", "validation": "dev-v1.1.json"}
    splits = tuple(files)
    signature: ClassVar = {
        "id": TEXT,
        "title": TEXT,
        "context": TEXT,
        "question": TEXT,
        "answers": {"text": TEXTS, "answer_start": NUMBERS},
    }

    def records(self, root: Path, split: str) -> Iterator[dict]:
        file = found(root, ["squad", ""], [self.files[split]])
        for article in _typed(_json(file), "data", list, file):
            title = _typed(article, "title", str, file)
            for paragraph in _typed(article, "paragraphs", list, f"{file}, {title}"):
                yield from _squad_questions(paragraph, title, f"{file}, {title}")


def _json(file: str) -> Any:
    text = "\n".join(line for _, line in lines(file))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: not JSON ({error}). {AGAIN}.") from error


def _squad_questions(paragraph: Object, title: str, where: str) -> Iterator[dict]:
    context = _typed(paragraph, "context", str, where)
    for question in _typed(paragraph, "qas", list, where):
        name = _typed(question, "id", str, where)
        here = f"{where}, question {name}"
        answers = _typed(question, "answers", list, here)
        if not answers:
            raise ValueError(f"{here} has no answers. Give SQuAD 1.1's files; this is 2.0's form.")
        yield {
            "id": name,
            "title": title,
            "context": context,
            "question": _typed(question, "question", str, here),
            "answers": {
                "text": [_typed(answer, "text", str, here) for answer in answers],
                "answer_start": [_typed(answer, "answer_start", int, here) for answer in answers],
            },
        }


@dataclasses.dataclass(frozen=True)
class MrqaRelease:
    """One data set of MRQA 2019, a line for each context; a `registration.Reader`.

    mrqa/ holds train/NAME.jsonl.gz and dev/NAME.jsonl.gz, as the shared task's own programs lay
    them out; those of dev/ may also lie in mrqa/ itself. The first line is a header that names the
    data set, which may lack.

    Attributes:
      names: the file's name without its ending, and others that it goes by.
      splits: as in TFDS. The out-of-domain sets have only `test`, which the release calls dev.
    """

    names: Sequence[str]
    splits: Sequence[str]

    signature: ClassVar = {
        "subset": TEXT,
        "qid": TEXT,
        "context": TEXT,
        "question": TEXT,
        "answers": TEXTS,
    }

    def records(self, root: Path, split: str) -> Iterator[dict]:
        parts = ["train"] if split == "train" else ["dev", ""]
        folders = [f"{parent}{part}" for parent in ("mrqa/", "MRQA/") for part in parts]
        subset = self.names[0]
        for where, row in json_lines(found(root, folders, [f"{n}.jsonl" for n in self.names])):
            if "header" in row:
                subset = _typed(row["header"], "dataset", str, where)
            else:
                yield from _mrqa_questions(row, subset, where)


def _mrqa_questions(row: Object, subset: str, where: str) -> Iterator[dict]:
    context = _typed(row, "context", str, where).strip()
    for question in _typed(row, "qas", list, where):
        answers = _typed(question, "answers", list, where)
        if not answers or not all(isinstance(answer, str) for answer in answers):
            raise ValueError(
                f"{where}: malformed line, 'answers' must be texts, at least one. {AGAIN}."
            )
        yield {
            "subset": subset,
            "qid": _typed(question, "qid", str, where),
            "context": context,
            "question": _typed(question, "question", str, where).strip(),
            "answers": answers,
        }


def _typed(parent: Any, name: str, kind: type, where: str) -> Any:
    """A field that must be there and of this type.

    Raises:
      ValueError: it is not.
    """
    if not isinstance(parent, dict):
        raise ValueError(f"{where}: malformed, {parent!r:.60} where an object should be. {AGAIN}.")
    value = field(parent, name, where)
    if not isinstance(value, kind):
        raise ValueError(
            f"{where}: malformed, {name!r} is {value!r:.60} and no {kind.__name__}. {AGAIN}."
        )
    return value
