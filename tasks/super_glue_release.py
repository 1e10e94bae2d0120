"""SuperGLUE's release (version 2): one folder or zip archive a task, one JSON object a line.

The records are those of TFDS's `super_glue`, in the order of the files.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow as tf

from prompt_tuning_jax.tasks.release import AGAIN, field, found, json_lines, lines

UNLABELLED = -1
FILES = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}

Row = Mapping[str, Any]
TEXT = tf.TensorSpec((), tf.string)
TEXTS = tf.TensorSpec((None,), tf.string)
INT = tf.TensorSpec((), tf.int32)
LABEL = tf.TensorSpec((), tf.int64)


@dataclasses.dataclass(frozen=True)
class SuperGlueRelease:
    """One task's release files; a `registration.Reader`.

    Attributes:
      folder: the task's official name, of its folder and archive.
      signature: feature -> `tf.TensorSpec`.
      expand: the records of one line: `(row, where, release, labelled)`.
      labels: the label classes, in TFDS's order; empty if a record has no label.
      files: split -> file.
    """

    folder: str
    signature: Mapping[str, Any]
    expand: Callable[..., Iterator[Row]]
    labels: Sequence[str] = ("False", "True")
    files: Mapping[str, str] = dataclasses.field(default_factory=lambda: FILES)

    @property
    def splits(self) -> Sequence[str]:
        return tuple(self.files)

    def records(self, root: Path, split: str) -> Iterator[Row]:
        folders = [f"{parent}{self.folder}" for parent in ("superglue/", "super_glue/", "")]
        file = found(root, folders, [self.files[split]])
        for where, row in json_lines(file):
            yield from self.expand(row, where, self, split != "test")

    def label(self, row: Row, where: str, labelled: bool) -> int:
        """The number of a row's label, given as a class's name, a truth value or a number.

        Raises:
          ValueError: there is none although the split is labelled, or it is no class.
        """
        if not labelled and row.get("label") is None:
            return UNLABELLED
        value = field(row, "label", where)
        if isinstance(value, str) and value in self.labels:
            return self.labels.index(value)
        if isinstance(value, int) and 0 <= value < len(self.labels):
            return int(value)
        raise ValueError(f"{where}: label {value!r} is none of {', '.join(self.labels)}")


def _one(row: Row, where: str, release: SuperGlueRelease, labelled: bool) -> Iterator[Row]:
    kinds = {name: str if spec == TEXT else int for name, spec in release.signature.items()}
    del kinds["label"]
    yield {
        **{name: field(row, name, where, kind) for name, kind in kinds.items()},
        "label": release.label(row, where, labelled),
    }


def _multirc(row: Row, where: str, release: SuperGlueRelease, labelled: bool) -> Iterator[Row]:
    """A record for each answer of each question."""
    passage = field(row, "passage", where, dict)
    for question in field(passage, "questions", where, list):
        for answer in field(question, "answers", where, list):
            yield {
                "paragraph": field(passage, "text", where, str),
                "question": field(question, "question", where, str),
                "answer": field(answer, "text", where, str),
                "idx": {
                    "paragraph": field(row, "idx", where, int),
                    "question": field(question, "idx", where, int),
                    "answer": field(answer, "idx", where, int),
                },
                "label": release.label(answer, where, labelled),
            }


def _record(row: Row, where: str, release: SuperGlueRelease, labelled: bool) -> Iterator[Row]:
    """A record for each query, with the distinct entities and answers in alphabetical order."""
    passage = field(row, "passage", where, dict)
    text = field(passage, "text", where, str)
    entities = {
        text[field(span, "start", where, int) : field(span, "end", where, int) + 1]
        for span in field(passage, "entities", where, list)
    }
    for query in field(row, "qas", where, list):
        answers = field(query, "answers", where, list) if labelled else query.get("answers", [])
        yield {
            "passage": text,
            "query": field(query, "query", where, str),
            "entities": sorted(entities),
            "answers": sorted({field(answer, "text", where, str) for answer in answers}),
            "idx": {
                "passage": field(row, "idx", where, int),
                "query": field(query, "idx", where, int),
            },
        }


def _wsc(row: Row, where: str, release: SuperGlueRelease, labelled: bool) -> Iterator[Row]:
    """With the spans as they stand in the text, as TFDS's `wsc.fixed` has them."""
    (example,) = _one({**row, **field(row, "target", where, dict)}, where, release, labelled)
    for span in ("span1", "span2"):
        example[f"{span}_text"] = _as_in_text(
            example[f"{span}_text"], example["text"], example[f"{span}_index"]
        )
    yield example


def _as_in_text(span: str, text: str, index: int) -> str:
    """`span` with the capital and the blanks of the text, whose word `index` it begins at.

    A span that is not in the text in one piece stays as it is.
    """
    words = text.split()
    if span in text or not index < len(words):
        return span
    head = span[0].lower() if words[index][0].islower() else span[0].upper()
    fixed = (head + span[1:]).rstrip(".").replace("\n", " ")
    return fixed if fixed in text else span


def _signature(*texts: str, idx=INT, **others) -> dict[str, Any]:
    return {**dict.fromkeys(texts, TEXT), "idx": idx, **others}


def _entailment(folder: str, *texts: str, **options) -> SuperGlueRelease:
    labels = ("entailment", "not_entailment")
    return SuperGlueRelease(folder, _signature(*texts, label=LABEL), _one, labels, **options)


_WIC_SPANS = dict.fromkeys(("start1", "start2", "end1", "end2"), INT)
_WSC_SPANS = dict.fromkeys(("span1_index", "span2_index"), INT)

# TFDS's configurations of super_glue.
SUPER_GLUE = {
    "boolq": SuperGlueRelease("BoolQ", _signature("question", "passage", label=LABEL), _one),
    "cb": SuperGlueRelease(
        "CB",
        _signature("premise", "hypothesis", label=LABEL),
        _one,
        ("entailment", "contradiction", "neutral"),
    ),
    "copa": SuperGlueRelease(
        "COPA",
        _signature("premise", "choice1", "choice2", "question", label=LABEL),
        _one,
        ("choice1", "choice2"),
    ),
    "multirc": SuperGlueRelease(
        "MultiRC",
        _signature(
            "paragraph",
            "question",
            "answer",
            idx=dict.fromkeys(("paragraph", "question", "answer"), INT),
            label=LABEL,
        ),
        _multirc,
    ),
    "record": SuperGlueRelease(
        "ReCoRD",
        _signature(
            "passage",
            "query",
            idx=dict.fromkeys(("passage", "query"), INT),
            entities=TEXTS,
            answers=TEXTS,
        ),
        _record,
        labels=(),
    ),
    "rte": _entailment("RTE", "premise", "hypothesis"),
    "wic": SuperGlueRelease(
        "WiC", _signature("word", "sentence1", "sentence2", label=LABEL, **_WIC_SPANS), _one
    ),
    "wsc.fixed": SuperGlueRelease(
        "WSC", _signature("text", "span1_text", "span2_text", label=LABEL, **_WSC_SPANS), _wsc
    ),
    "axb": _entailment("AX-b", "sentence1", "sentence2", files={"test": "AX-b.jsonl"}),
    "axg": _entailment("AX-g", "premise", "hypothesis", files={"test": "AX-g.jsonl"}),
}


class DprRelease:
    """Definite Pronoun Resolution (Rahman & Ng 2012), a `registration.Reader`.

    Each problem is five lines: sentence, pronoun, both candidates with a comma between, the right
    one, and an empty line.
    """

    files: ClassVar = {"train": "train.c.txt", "test": "test.c.txt"}
    splits = tuple(files)
    signature: ClassVar = {
        "sentence": TEXT,
        "pronoun": TEXT,
        "candidates": tf.TensorSpec((2,), tf.string),
        "label": LABEL,
    }

    def records(self, root: Path, split: str) -> Iterator[Row]:
        numbered = iter(
            lines(found(root, ("dpr", "definite_pronoun_resolution"), [self.files[split]]))
        )
        while problem := [(where, line.strip()) for where, line in itertools.islice(numbered, 5)]:
            texts = [line for _, line in problem] + [""] * (5 - len(problem))
            if not any(texts):
                return
            candidates = [each.strip() for each in texts[2].split(",")]
            if len(candidates) != 2 or texts[3] not in candidates or texts[4]:
                raise ValueError(
                    f"{problem[0][0]}: malformed problem; it should be a sentence, a pronoun, two "
                    f"candidates, one of them again, and an empty line. {AGAIN}."
                )
            yield {
                "sentence": texts[0],
                "pronoun": texts[1],
                "candidates": candidates,
                "label": candidates.index(texts[3]),
            }
