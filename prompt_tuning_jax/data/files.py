"""A task from files, without writing code.

    task = file_task(
        "data/sst2",                               # holds train.tsv and dev.tsv
        input_template="sentence: {sentence}",
        target_template="{label}",
        verbalizers={"0": "negative", "1": "positive"},
    )

Files are read at random through an index of byte offsets, so a file of any size needs only a few
bytes of memory a record. Making it reads and checks every record once, before training starts.
"""

import array
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from prompt_tuning_jax.data.metrics import get_metric
from prompt_tuning_jax.data.records import FORMATS, Record, RecordFile
from prompt_tuning_jax.data.task import Example, IndexedSource, Task
from prompt_tuning_jax.data.templates import (
    Labels,
    Template,
    Verbalizers,
    check_unicode,
    field_text,
)
from prompt_tuning_jax.errors import spelled

SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "val", "dev"), "test": ("test",)}


class ExampleMaker:
    """A record -> {"inputs", "targets"}, by template, and the `fields` to keep, as text."""

    def __init__(
        self,
        inputs: Template,
        targets: Template,
        labels: Labels | None,
        fields: Sequence[str] = (),
    ):
        if labels and len(targets.fields) != 1:
            raise ValueError(
                f"Target template {targets.text!r}: with verbalizers it must have exactly one "
                "field, the label."
            )
        if not inputs.fields or not targets.fields:
            raise ValueError(
                f"Templates {inputs.text!r} and {targets.text!r}: each must hold a field's name in "
                "braces, such as {sentence}."
            )
        self._inputs, self._targets, self._labels = inputs, targets, labels
        self._fields = fields

    @property
    def verbalizers(self) -> tuple[str, ...] | None:
        """Every legal target, if there are labels."""
        if self._labels is None:
            return None
        return tuple(self._target_of(word) for word in self._labels.words)

    def __call__(self, record: Record) -> Example:
        example = {"inputs": self._inputs.render(record), "targets": self._target(record)}
        for feature, text in example.items():
            if not text.strip():
                raise ValueError(f"The {feature} are empty; fill in the fields or drop the record.")
            check_unicode(text, feature)
        return {**{field: field_text(record, field) for field in self._fields}, **example}

    def _target(self, record: Record) -> str:
        if self._labels is None:
            return self._targets.render(record)
        return self._target_of(self._labels.word(field_text(record, self._targets.fields[0])))

    def _target_of(self, word: str) -> str:
        return self._targets.render({self._targets.fields[0]: word})


class FileSource(IndexedSource):
    """Examples of one file, checked and indexed when first used."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        make: ExampleMaker,
        columns: Sequence[str] | None = None,
    ):
        self._records = RecordFile(path, columns)
        self._make = make

    @functools.cached_property
    def _offsets(self) -> np.ndarray:
        offsets = array.array("q")
        for offset, line, record in self._records.scan():
            try:
                self._make(record)
            except ValueError as error:
                raise ValueError(f"{self._records.path}, line {line}: {error}") from error
            offsets.append(offset)
        if not offsets:
            raise ValueError(f"{self._records.path} holds no records.")
        return np.frombuffer(offsets, np.int64)

    def __len__(self) -> int:
        return len(self._offsets)

    def records(self) -> Iterator[Record]:
        """The records as they stand in the file."""
        return (record for _, _, record in self._records.scan())

    def __getitem__(self, index: int) -> Example:
        with self._records.path.open("rb") as file:
            return self._make(self._records.read(file, int(self._offsets[index])))


def file_task(
    data: str | os.PathLike[str] | None = None,
    *,
    train: str | os.PathLike[str] | None = None,
    validation: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    input_template: str,
    target_template: str,
    verbalizers: Verbalizers | None = None,
    metric: str | Sequence[str] = "accuracy",
    positive: str | None = None,
    columns: Sequence[str] | None = None,
    fields: Sequence[str] = (),
    name: str = "files",
) -> Task:
    """A task from `.jsonl`, `.tsv` or `.csv` files.

    Args:
      data: a directory with `train`, `validation` (or `val`, or `dev`) and `test` in any of the
        three formats; whichever are there. `train`, `validation` and `test` name single files.
      input_template: the input, for example `"sentence: {sentence}"`; see `templates`.
      target_template: the target, for example `"{label}"`.
      verbalizers: the words for the raw labels; None where the target is free text.
      metric: a name, or several of which the first chooses the best checkpoint; see `metrics`.
      positive: the verbalizer that the metric `f1` looks for; the last one if not given.
      columns: the fields of .tsv or .csv files that have no header.
      fields: of the records, to keep beside `inputs` and `targets`.

    Raises:
      FileNotFoundError, ValueError: a path, template, verbalizer or metric that cannot work. A bad
        record is reported, with its file and line, when its split is first used.
    """
    labels = None if verbalizers is None else Labels(verbalizers)
    make = ExampleMaker(Template(input_template), Template(target_template), labels, fields)
    given = {"train": train, "validation": validation, "test": test}
    found = ({} if data is None else find_splits(data)) | {k: v for k, v in given.items() if v}
    if not found:
        raise ValueError("A file task needs a data directory, or at least one of its files.")
    names = [metric] if isinstance(metric, str) else list(metric)
    if positive is not None and "f1" not in names:
        raise ValueError(
            f"{spelled('positive')} is for the metric 'f1', not for {', '.join(names)}."
        )
    return Task(
        name=name,
        splits={split: FileSource(path, make, columns) for split, path in found.items()},
        verbalizers=make.verbalizers,
        metrics=tuple(get_metric(each, make.verbalizers, positive) for each in names),
        best_metric=names[0],
    )


def find_splits(directory: str | os.PathLike[str]) -> dict[str, Path]:
    """The files of each split in a directory."""
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"There is no directory {directory}: check the path.")
    found = {}
    for split, stems in SPLIT_NAMES.items():
        files = [directory / (stem + ending) for stem in stems for ending in FORMATS]
        files = [file for file in files if file.is_file()]
        if len(files) > 1:
            raise ValueError(
                f"{directory} holds {' and '.join(f.name for f in files)}: name the file to use as "
                f"`{split}`."
            )
        if files:
            found[split] = files[0]
    if not found:
        raise FileNotFoundError(
            f"{directory} holds no train, validation, val, dev or test file ending in "
            f"{', '.join(FORMATS)}."
        )
    return found
