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
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np

from prompt_tuning_jax.data.held_out import HoldOut
from prompt_tuning_jax.data.metrics import get_metric
from prompt_tuning_jax.data.records import Record, RecordFile
from prompt_tuning_jax.data.records.splits import SPLIT_NAMES, Files, find_splits
from prompt_tuning_jax.data.task import Example, IndexedSource, MetricFn, Task
from prompt_tuning_jax.data.templates import (
    Labels,
    MissingValueError,
    MissingWord,
    Template,
    Verbalizers,
    check_unicode,
    field_text,
)
from prompt_tuning_jax.errors import spelled

MISSING = ("drop", "empty", "text")
AnyPath = str | os.PathLike[str]


class FileForm(TypedDict, total=False):
    """How files are written.

    Attributes:
      columns: the fields of .tsv or .csv files that have no header.
      encoding: of the files, such as "cp1252"; UTF-8 if not given.
      delimiter: between cells; found in each file if not given.
    """

    columns: Sequence[str] | None
    encoding: str | None
    delimiter: str | None


class ExampleMaker:
    """A record -> {"inputs", "targets"}, by template, and the `fields` to keep, as text.

    Args:
      missing: what a null, or a cell such as `nan`, counts as: "empty" text or, of a cell, the
        "text" that it is; None: it is refused, and so it is for "drop", which is for who asks.
    """

    def __init__(
        self,
        inputs: Template,
        targets: Template,
        labels: Labels | None,
        fields: Sequence[str] = (),
        missing: str | None = None,
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
        if missing not in (None, *MISSING):
            raise ValueError(
                f"{spelled('missing')} must be one of {', '.join(MISSING)}, not {missing!r}."
            )
        self._inputs, self._targets, self._labels = inputs, targets, labels
        self._fields, self.missing = fields, missing

    @property
    def verbalizers(self) -> tuple[str, ...] | None:
        """Every legal target, if there are labels."""
        if self._labels is None:
            return None
        return tuple(self._target_of(word) for word in self._labels.words)

    def __call__(self, record: Record) -> Example:
        """The example.

        Raises:
          MissingValueError: a value is null, or all that a template asks for is empty.
          ValueError: a field or a label is unknown, or no text.
        """
        inputs = self._inputs.render(record, self.missing)
        example = {"inputs": inputs, "targets": self._target(record)}
        self._refuse_empty(record, "inputs", self._inputs)
        if self._labels is None:
            self._refuse_empty(record, "targets", self._targets)
        for feature, text in example.items():
            check_unicode(text, feature)
        return {**{field: field_text(record, field) for field in self._fields}, **example}

    def _refuse_empty(self, record: Record, feature: str, template: Template) -> None:
        if template.is_empty(record, self.missing):
            raise MissingValueError(
                f"The {feature} are empty; fill in {', '.join(template.fields)}, take the record "
                f"out, or set {spelled('missing', 'drop')}."
            )

    def _target(self, record: Record) -> str:
        if self._labels is None:
            return self._targets.render(record, self.missing)
        (field,) = self._targets.fields
        value = record.get(field)
        if isinstance(value, MissingWord) and str(value) in self._labels:
            return self._target_of(self._labels.word(value))  # a label that is called `None`
        return self._target_of(self._labels.word(field_text(record, field, self.missing)))

    def _target_of(self, word: str) -> str:
        return self._targets.render({self._targets.fields[0]: word})


class FileSource(IndexedSource):
    """Examples of one file or of its shards, checked and indexed when first used.

    Args:
      only: a field and its value, of the records that count; None for all.
    """

    def __init__(
        self,
        paths: Sequence[AnyPath],
        make: ExampleMaker,
        only: tuple[str, str] | None = None,
        **form: Unpack[FileForm],
    ):
        self.shards = [RecordFile(path, **form) for path in paths]
        self._make, self._only = make, only

    @property
    def files(self) -> list[Path]:
        """The files that it reads."""
        return [shard.path for shard in self.shards]

    @functools.cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """The number of the shard and the byte offset of each record."""
        numbers, offsets, dropped = array.array("i"), array.array("q"), 0
        for number, shard in enumerate(self.shards):
            for offset, line, record in shard.scan():
                try:
                    if not self._counts(record):
                        continue
                    self._make(record)
                except ValueError as error:
                    if isinstance(error, MissingValueError) and self._make.missing == "drop":
                        dropped += 1
                        continue
                    raise ValueError(f"{shard.path}, line {line}: {error}") from error
                numbers.append(number)
                offsets.append(offset)
        name = self.shards[0].path
        if not offsets:
            of_task = "" if self._only is None else f" whose {self._only[0]} is {self._only[1]!r}"
            dropped_ones = " but dropped ones" if dropped else ""
            raise ValueError(f"{name} holds no records{of_task}{dropped_ones}.")
        if dropped:
            warnings.warn(
                f"{name}: {dropped} of {len(offsets) + dropped} records lack a value and are "
                "dropped",
                stacklevel=2,
            )
        return np.frombuffer(numbers, np.int32), np.frombuffer(offsets, np.int64)

    def _counts(self, record: Record) -> bool:
        return self._only is None or field_text(record, self._only[0]) == self._only[1]

    def __len__(self) -> int:
        return len(self._places[1])

    def records(self) -> Iterator[Record]:
        """The records of the examples as they stand in the file."""
        return map(self.record, range(len(self)))

    def record(self, index: int) -> Record:
        """The record of one example."""
        numbers, offsets = self._places
        shard = self.shards[numbers[index]]
        with shard.open() as file:
            return shard.read(file, int(offsets[index]))

    def __getitem__(self, index: int) -> Example:
        return self._make(self.record(index))


def file_task(
    data: AnyPath | None = None,
    *,
    train: AnyPath | None = None,
    validation: AnyPath | None = None,
    test: AnyPath | None = None,
    input_template: str,
    target_template: str,
    verbalizers: Verbalizers | None = None,
    metric: str | Sequence[str] = "accuracy",
    positive: str | None = None,
    fields: Sequence[str] = (),
    missing: str | None = None,
    validation_share: float | None = None,
    only: tuple[str, str] | None = None,
    name: str = "files",
    **form: Unpack[FileForm],
) -> Task:
    """A task from `.jsonl`, `.tsv` or `.csv` files.

    Args:
      data: a directory with the splits in any of the three formats; see `records.splits`. `train`,
        `validation` and `test` name single files.
      input_template: the input, for example `"sentence: {sentence}"`; see `templates`.
      target_template: the target, for example `"{label}"`.
      verbalizers: the words for the raw labels; None where the target is free text.
      metric: a name, or several of which the first chooses the best checkpoint; see `metrics`.
      positive: the verbalizer that the metric `f1` looks for; the last one if not given.
      fields: of the records, to keep beside `inputs` and `targets`.
      missing: what happens to records that lack a value: "drop", or it counts as "empty", or as
        the "text" that a cell such as `None` is; None: they are refused.
      only: a field and its value, of the records that count; None for all.
      validation_share: of the training examples, to hold out as the validation split.
      form: `columns`, `encoding` and `delimiter` of the files; see `FileForm`.

    Raises:
      FileNotFoundError, ValueError: a path, template, verbalizer or metric that cannot work. A bad
        record is reported, with its file and line, when its split is first used.
    """
    labels = None if verbalizers is None else Labels(verbalizers)
    templates = Template(input_template), Template(target_template)
    make = ExampleMaker(*templates, labels, fields, missing)
    found = _files(data, {"train": train, "validation": validation, "test": test})
    sources = {split: FileSource(paths, make, only, **form) for split, paths in found.items()}
    _read_alike([shard for source in sources.values() for shard in source.shards])
    splits: dict[str, IndexedSource] = {**sources}
    if validation_share is not None:
        _check_share(validation_share, found)
        parts = HoldOut(sources["train"], validation_share, make.verbalizers)
        splits |= {"train": parts.train, "validation": parts.validation}
    names = [metric] if isinstance(metric, str) else list(metric)
    return Task(
        name=name,
        splits=splits,
        verbalizers=make.verbalizers,
        metrics=_metrics(names, make.verbalizers, positive),
        best_metric=names[0],
        input_template=input_template,
        target_template=target_template,
    )


def _read_alike(shards: Sequence[RecordFile]) -> None:
    """Lets each file of a task know of the others, so that quotes mean the same in all."""
    for shard in shards:
        shard.beside = shards


def _metrics(
    names: Sequence[str], labels: Sequence[str] | None, positive: str | None
) -> tuple[MetricFn, ...]:
    if positive is not None and "f1" not in names:
        raise ValueError(
            f"{spelled('positive')} is for the metric 'f1', not for {', '.join(names)}."
        )
    return tuple(get_metric(name, labels, positive) for name in names)


def fields_of_files(
    data: AnyPath | None = None,
    *,
    train: AnyPath | None = None,
    validation: AnyPath | None = None,
    test: AnyPath | None = None,
    **form: Unpack[FileForm],
) -> list[str]:
    """The fields of the first record in the files of a `file_task`, which templates may name.

    Raises:
      FileNotFoundError, ValueError: a path that cannot work, no record, or a malformed one.
    """
    found = _files(data, {"train": train, "validation": validation, "test": test})
    first = RecordFile(next(iter(found.values()))[0], **form)
    for _, _, record in first.scan():
        return list(record)
    raise ValueError(f"{first.path} holds no records.")


def _files(data: AnyPath | None, named: dict[str, AnyPath | None]) -> dict[str, Files]:
    """The files of each split: those that are named, and those of the directory."""
    given = {split: path for split, path in named.items() if path}
    found = {} if data is None else find_splits(data, given)
    found |= {split: (Path(path),) for split, path in given.items()}
    if not found:
        raise ValueError("A file task needs a data directory, or at least one of its files.")
    return {split: found[split] for split in SPLIT_NAMES if split in found}


def _check_share(share: float, found: dict[str, Files]) -> None:
    """Refuses a share that is none, or of which there is no need."""
    shown = spelled("validation_share")
    if not 0 < share < 1:
        raise ValueError(f"{shown} must be above 0 and below 1, such as 0.1, not {share}.")
    if "validation" in found:
        raise ValueError(
            f"There is a validation file, {found['validation'][0]}: leave out {shown}, which makes "
            "one of training examples."
        )
    if "train" not in found:
        raise ValueError(f"{shown} is taken from a train file, and there is none.")
