"""Records of .jsonl, .tsv and .csv files: read one after another, or at a byte offset.

- `.jsonl`: one JSON object a line.
- `.tsv`: a header line, then one record a line. Quotes mean nothing, as in GLUE's files.
- `.csv`: a header line, then records in which a quoted field may hold commas, line ends and
  doubled quotes.

Files are UTF-8. Empty lines are skipped. Every error names the file, the line and the remedy.
"""

import codecs
import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.json_values import json_object

Record = Mapping[str, Any]

FORMATS = (".jsonl", ".tsv", ".csv")
_REMEDY = 'A line must be an object such as {"text": "...", "label": 0}.'
LARGEST_RECORD = 64 * 2**20
"""Bytes of the largest record read, so that a file without line ends cannot fill the memory."""


class RecordFile:
    """A file of records. `columns` names the fields of a .tsv or .csv file without a header."""

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str] | None = None):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no file {self.path}: check the path.")
        self._format = self.path.suffix.lower()
        if self._format not in FORMATS:
            raise ValueError(f"{self.path}: a data file must end in one of {', '.join(FORMATS)}.")
        if columns and self._format == ".jsonl":
            raise ValueError(f"{self.path}: columns are for .tsv and .csv; JSON names its fields.")
        self._has_header = self._format != ".jsonl" and not columns
        self._columns = list(columns or ())

    def scan(self) -> Iterator[tuple[int, int, Record]]:
        """All records in order, each with its byte offset and the number of its first line."""
        with self.path.open("rb") as file:
            line, offset = 1, 0
            while raw := self._read_raw(file, f"{self.path}, line {line}"):
                where, record = f"{self.path}, line {line}", _without_mark(raw, offset)
                if self._has_header and offset == 0:
                    self._columns = self._header(record, where)
                elif record.strip(b" \r\n"):
                    yield offset, line, self._parse(record, where)
                line, offset = line + raw.count(b"\n"), offset + len(raw)

    def read(self, file: BinaryIO, offset: int) -> Record:
        """The record at an offset that `scan` gave, from the file opened for reading bytes."""
        file.seek(offset)
        where = f"{self.path}, byte {offset}"
        return self._parse(_without_mark(self._read_raw(file, where), offset), where)

    def _read_raw(self, file: BinaryIO, where: str) -> bytes:
        """The bytes of one record with its line end; none at the end of the file."""
        raw = file.readline(LARGEST_RECORD)
        while self._format == ".csv" and raw.count(b'"') % 2 and len(raw) < LARGEST_RECORD:
            more = file.readline(LARGEST_RECORD)
            if not more:
                raise ValueError(f"{where}: a quote is opened and never closed.")
            raw += more
        if len(raw) >= LARGEST_RECORD:
            raise ValueError(
                f"{where}: a record of over {LARGEST_RECORD >> 20} MiB; is a line end or a closing "
                "quote missing?"
            )
        return raw

    def _header(self, raw: bytes, where: str) -> list[str]:
        columns = [name.strip() for name in self._split(_decode(raw, where), where)]
        if len(set(columns)) < len(columns) or not all(columns):
            raise ValueError(
                f"{where}: the header must name every column, each differently; it is {columns}. "
                f"If the file has no header, give {spelled('columns')}."
            )
        return columns

    def _parse(self, raw: bytes, where: str) -> Record:
        text = _decode(raw, where)
        if self._format == ".jsonl":
            return json_object(text, where, _REMEDY)
        values = self._split(text, where)
        if len(values) != len(self._columns):
            raise ValueError(
                f"{where}: {len(values)} columns where there should be {len(self._columns)} "
                f"({', '.join(self._columns)})."
            )
        return dict(zip(self._columns, values, strict=True))

    def _split(self, text: str, where: str) -> list[str]:
        if self._format == ".tsv":
            return text.split("\t")
        csv.field_size_limit(LARGEST_RECORD)
        try:
            return next(csv.reader([text], strict=True))
        except csv.Error as error:
            raise ValueError(f"{where}: not valid CSV ({error}).") from error


def _without_mark(raw: bytes, offset: int) -> bytes:
    """The byte order mark is a file's first character; anywhere else it is text."""
    return raw if offset else raw.removeprefix(codecs.BOM_UTF8)


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: not UTF-8 (byte {error.start + 1} of the record is "
            f"0x{raw[error.start]:02x}); convert the file, for example with "
            "`iconv -f latin1 -t utf-8`."
        ) from error
