"""GLUE's release: one folder or zip archive a task, tab-separated files without quoting.

The records are those of TFDS's `glue`, in the order of the files.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from prompt_tuning_jax.tasks import release
from prompt_tuning_jax.tasks.release import AGAIN, field

UNLABELLED = -1
FILES = {"train": ("train.tsv",), "validation": ("dev.tsv",), "test": ("test.tsv",)}
COLA_COLUMNS = ("source", "is_acceptable", "mark", "sentence")
PARENTS = ("glue/", "GLUE/", "glue_data/", "")

Row = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class GlueRelease:
    """One task's release files; a `registration.Reader`.

    Attributes:
      folder: the task's official name, of its folder and archive.
      columns: feature -> the column that holds it.
      label_column: the column of the label; test files have none.
      labels: the label classes, in TFDS's order; empty if the label is a number (STS-B).
      files: split -> file, or the names that it goes by.
      header: the columns of files that do not name them, by split.
      drops_broken_rows: whether the released files themselves have rows that lack a cell. They
        count for `idx` but are no examples; elsewhere such a row is an error.
    """

    folder: str
    columns: Mapping[str, str]
    label_column: str = "label"
    labels: Sequence[str] = ()
    files: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=lambda: FILES)
    header: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    drops_broken_rows: bool = False

    @property
    def splits(self) -> Sequence[str]:
        return tuple(self.files)

    @property
    def signature(self) -> dict[str, tf.TensorSpec]:
        return {
            **{feature: tf.TensorSpec((), tf.string) for feature in self.columns},
            "label": tf.TensorSpec((), tf.int64 if self.labels else tf.float32),
            "idx": tf.TensorSpec((), tf.int32),
        }

    @property
    def folders(self) -> list[str]:
        return [parent + self.folder for parent in PARENTS]

    def records(self, root: Path, split: str) -> Iterator[Mapping[str, Any]]:
        file, broken = release.found(root, self.folders, self.files[split]), None
        for idx, (where, row) in enumerate(release.rows(file, self.header.get(split))):
            labelled = not split.startswith("test")
            broken = where if self.drops_broken_rows and self.is_broken(row, labelled) else None
            if broken is None:
                yield self.record(row, where, idx, labelled)
        if broken:
            raise ValueError(f"{broken}: the last line is not complete. {AGAIN}.")

    def is_broken(self, row: Row, labelled: bool) -> bool:
        needed = [*self.columns.values(), *([self.label_column] if labelled else [])]
        return any(column not in row for column in needed) or (
            labelled and not row[self.label_column]
        )

    def record(self, row: Row, where: str, idx: int, labelled: bool) -> dict[str, Any]:
        texts = {name: field(row, column, where) for name, column in self.columns.items()}
        return {**texts, "label": self.label(row, where, labelled), "idx": idx}

    def label(self, row: Row, where: str, labelled: bool) -> int | float:
        """The label of a row, given as a class's name or a number; -1 in a test file without any.

        Raises:
          ValueError: there is none although the split is labelled, or it is no class.
        """
        if not labelled and self.label_column not in row:
            return UNLABELLED
        value = field(row, self.label_column, where)
        if value in self.labels:
            return self.labels.index(value)
        try:
            number = int(value) if self.labels else float(value)
        except ValueError:
            number = None
        if number is None or (self.labels and not 0 <= number < len(self.labels)):
            legal = ", ".join(self.labels) or "a number"
            raise ValueError(f"{where}: malformed line, label {value!r} is not {legal}. {AGAIN}.")
        return number


class MrpcRelease(GlueRelease):
    """MRPC, from GLUE's folder or, where they are there, from the corpus's own files.

    GLUE draws its validation pairs from the corpus's training file, by the ids of `dev_ids.tsv`. In
    that form `idx` counts the rows of the whole file, as TFDS's does; in GLUE's own files each
    split counts for itself. Test labels, which the corpus has, are left out as in TFDS.
    """

    def records(self, root: Path, split: str) -> Iterator[Mapping[str, Any]]:
        if split == "test":
            yield from self._test(root)
        elif (corpus := release.find(root, self.folders, ["msr_paraphrase_train.txt"])) is None:
            yield from super().records(root, split)
        else:
            ids = release.found(root, self.folders, ["dev_ids.tsv"])
            pairs = {tuple(line.split("\t")[:2]) for _, line in release.lines(ids)}
            for idx, (where, row) in enumerate(release.rows(corpus)):
                pair = (field(row, "#1 ID", where), field(row, "#2 ID", where))
                if (pair in pairs) == (split == "validation"):
                    yield self.record(row, where, idx, labelled=True)

    def _test(self, root: Path) -> Iterator[Mapping[str, Any]]:
        file = release.found(root, self.folders, ["msr_paraphrase_test.txt", "test.tsv"])
        for idx, (where, row) in enumerate(release.rows(file)):
            texts = {name: field(row, column, where) for name, column in self.columns.items()}
            yield {**texts, "label": UNLABELLED, "idx": idx}


_PAIR = {"sentence1": "sentence1", "sentence2": "sentence2"}
_NLI = ("entailment", "neutral", "contradiction")
_MNLI_PAIR = {"premise": "sentence1", "hypothesis": "sentence2"}
_MNLI_FILES = {
    "train": ("train.tsv",),
    "validation_matched": ("dev_matched.tsv",),
    "validation_mismatched": ("dev_mismatched.tsv",),
    "test_matched": ("test_matched.tsv",),
    "test_mismatched": ("test_mismatched.tsv",),
}


def _mnli(files: Mapping[str, Sequence[str]]) -> GlueRelease:
    return GlueRelease("MNLI", _MNLI_PAIR, "gold_label", _NLI, files)


# TFDS's configurations of glue.
GLUE = {
    "cola": GlueRelease(
        "CoLA",
        {"sentence": "sentence"},
        "is_acceptable",
        ("unacceptable", "acceptable"),
        header=dict.fromkeys(("train", "validation"), COLA_COLUMNS),
    ),
    "sst2": GlueRelease("SST-2", {"sentence": "sentence"}, labels=("negative", "positive")),
    "mrpc": MrpcRelease(
        "MRPC",
        {"sentence1": "#1 String", "sentence2": "#2 String"},
        "Quality",
        ("not_equivalent", "equivalent"),
    ),
    "qqp": GlueRelease(
        "QQP",
        {"question1": "question1", "question2": "question2"},
        "is_duplicate",
        ("not_duplicate", "duplicate"),
        drops_broken_rows=True,
    ),
    "stsb": GlueRelease("STS-B", _PAIR, "score"),
    "mnli": _mnli(_MNLI_FILES),
    "mnli_matched": _mnli({"validation": ("dev_matched.tsv",), "test": ("test_matched.tsv",)}),
    "mnli_mismatched": _mnli(
        {"validation": ("dev_mismatched.tsv",), "test": ("test_mismatched.tsv",)}
    ),
    "qnli": GlueRelease(
        "QNLI",
        {"question": "question", "sentence": "sentence"},
        labels=("entailment", "not_entailment"),
    ),
    "rte": GlueRelease("RTE", _PAIR, labels=("entailment", "not_entailment")),
    "wnli": GlueRelease("WNLI", _PAIR, labels=("not_entailment", "entailment")),
    "ax": GlueRelease(
        "",
        _MNLI_PAIR,
        labels=_NLI,
        files={"test": ("diagnostic/diagnostic.tsv", "AX/AX.tsv", "AX.tsv")},
    ),
}
