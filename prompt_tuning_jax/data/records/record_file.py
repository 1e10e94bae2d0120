"""Records of .jsonl, .tsv and .csv files: read one after another, or at a byte offset.

- `.jsonl`: one JSON object a line.
- `.csv` and `.tsv`: a header, then one record a row; `table_format` says how rows are divided.

Empty lines are skipped. Every error names the file, the line and the remedy.
"""

import codecs
import csv
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from prompt_tuning_jax.data.records.table_format import (
    TableFormat,
    check_delimiter,
    find_format,
)
from prompt_tuning_jax.data.records.text_file import LARGEST_RECORD, TextFile, not_utf8
from prompt_tuning_jax.data.templates import MISSING_WORDS, MissingWord
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.json_values import json_object

Record = Mapping[str, Any]

FORMATS = (".jsonl", ".tsv", ".csv")
_REMEDY = 'A line must be an object such as {"text": "...", "label": 0}.'


class RecordFile:
    """A file of records.

    Args:
      columns: names the fields of a .tsv or .csv file without a header.
      encoding: of the file; UTF-8 if not given.
      delimiter: between the cells of a .tsv or .csv file; found in the file if not given.

    Attributes:
      beside: the files of the same data set, which are read alike.
    """

    beside: Sequence["RecordFile"] = ()

    def __init__(
        self,
        path: str | os.PathLike[str],
        columns: Sequence[str] | None = None,
        encoding: str | None = None,
        delimiter: str | None = None,
    ):
        self._text = TextFile(path, encoding)
        self.path = self._text.path
        self._format = self.path.suffix.lower()
        if self._format not in FORMATS:
            raise ValueError(
                f"{self.path}: a data file must end in one of {', '.join(FORMATS)}: name it for "
                "what it holds, one JSON object a line, tabs or commas between cells."
            )
        for name, given in (("columns", columns), ("delimiter", delimiter)):
            if given and self._format == ".jsonl":
                raise ValueError(
                    f"{self.path}: {spelled(name)} is for .tsv and .csv; JSON names its fields."
                )
        self._delimiter = check_delimiter(delimiter)
        self._has_header = self._format != ".jsonl" and not columns
        self._columns = list(columns or ())

    def open(self) -> BinaryIO:
        """What `read` takes."""
        return self._text.open()

    @functools.cached_property
    def _table(self) -> TableFormat:
        if not self._alone.quoted:
            return self._alone
        return self._alone.beside(other._alone for other in self.beside)

    @functools.cached_property
    def _alone(self) -> TableFormat:
        """How it would be read if there were no other."""
        if self._format == ".jsonl":
            return TableFormat("", quoted=False)
        with self.open() as file:
            return find_format(self.path, file, self._delimiter, self._given_columns)

    @property
    def _given_columns(self) -> Sequence[str]:
        return () if self._has_header else self._columns

    def scan(self) -> Iterator[tuple[int, int, Record]]:
        """All records in order, each with its byte offset and the number of its first line."""
        with self.open() as file:
            lines, awaits_header = _Lines(self.path, file), self._has_header
            if self._table.start:
                next(lines)  # `sep=;`
            for row in self._rows(lines):
                if awaits_header:
                    self._columns, awaits_header = _header(row, lines.where), False
                else:
                    yield lines.start, lines.number, self._record(row, lines.where)

    def read(self, file: BinaryIO, offset: int) -> Record:
        """The record at an offset that `scan` gave, from the file as `open` gives it."""
        lines = _Lines(self.path, file, offset)
        return self._record(next(self._rows(lines)), lines.where)

    def _rows(self, lines: "_Lines") -> Iterator[Any]:
        """The text of each record, or its cells."""
        if self._table.quoted:
            yield from self._quoted_rows(lines)
            return
        lines.begin()
        for line in lines:
            text = line.rstrip("\r\n")
            if text.strip(" "):
                yield text.split(self._table.delimiter) if self._table.delimiter else text
            lines.begin()

    def _quoted_rows(self, lines: "_Lines") -> Iterator[list[str]]:
        csv.field_size_limit(LARGEST_RECORD)
        reader = csv.reader(lines, delimiter=self._table.delimiter, strict=True)
        while True:
            lines.begin()
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise ValueError(f"{lines.where}: {_explained(error)}") from error
            if row is None:
                return
            if len(row) > 1 or "".join(row).strip(" "):
                yield row

    def _record(self, row: Any, where: str) -> Record:
        if isinstance(row, str):
            return json_object(row, where, _REMEDY)
        if len(row) != len(self._columns):
            raise ValueError(
                f"{where}: {len(row)} columns where there should be {len(self._columns)} "
                f"({', '.join(self._columns)})."
            )
        return {
            name: MissingWord(cell) if cell in MISSING_WORDS else cell
            for name, cell in zip(self._columns, row, strict=True)
            if name
        }


class _Lines:
    """The lines of a file as text, from an offset on; a record may take several.

    Attributes:
      start, number: the byte offset and the number of the line at which the record begins.
    """

    def __init__(self, path: Path, file: BinaryIO, offset: int = 0):
        self._path, self._file, self._counts = path, file, offset == 0
        self._offset, self._line = offset, 1
        file.seek(offset)
        self.begin()

    def begin(self) -> None:
        """A record begins with the next line."""
        self.start, self.number = self._offset, self._line

    @property
    def where(self) -> str:
        place = f"line {self.number}" if self._counts else f"byte {self.start}"
        return f"{self._path}, {place}"

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        raw = self._file.readline(LARGEST_RECORD)
        if not raw:
            raise StopIteration
        if not self._offset:  # anywhere else a byte order mark is text
            self._offset = len(raw) - len(raw := raw.removeprefix(codecs.BOM_UTF8))
        line, self._offset = self._line, self._offset + len(raw)
        self._line += raw.endswith(b"\n")
        if self._offset - self.start >= LARGEST_RECORD:
            raise ValueError(
                f"{self.where}: a record of over {LARGEST_RECORD >> 20} MiB; is a line end or a "
                "closing quote missing?"
            )
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            where = f"{self._path}, line {line}" if self._counts else self.where
            raise ValueError(f"{where}: {not_utf8(self._path, raw, error.start)}") from error


def _header(row: Sequence[str], where: str) -> list[str]:
    """The columns' names; an index without a name, and empty columns at the end, have none."""
    columns = [name.strip() for name in row]
    named = "\n".join(columns[1:]).rstrip("\n").split("\n")
    if columns[0]:
        named = [columns[0], *(name for name in named if len(columns) > 1)]
    if not all(named) or len(set(named)) < len(named):
        raise ValueError(
            f"{where}: the header must name every column, each differently; it is {columns}. "
            f"If the file has no header, give {spelled('columns')}."
        )
    return columns


def _explained(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "a quote is opened and never closed."
    if "new-line character" in str(error):
        return "a carriage return in a cell without quotes; take it out, or put the cell in quotes."
    return f"not valid CSV ({error}); a quote within a quoted cell is written twice."
