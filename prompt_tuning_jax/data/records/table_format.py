"""How the cells of a .csv or .tsv file are divided: the delimiter, and what quotes mean.

Spreadsheets write semicolons where the comma is the decimal sign, `sep=;` as a first line, and tabs
into files called .csv. In .tsv, pandas and Excel quote cells that hold a tab, a line end or a
quote; GLUE's files quote nothing, and their quotes are text. A small file of theirs may look quoted
by chance, so files of one data set are read alike.
"""

import codecs
import contextlib
import csv
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from prompt_tuning_jax.data.records.text_file import LARGEST_RECORD
from prompt_tuning_jax.errors import spelled

DELIMITERS = (",", ";", "\t", "|")
LOOKED_AT = 100  # lines whose records must agree on a delimiter where the header leaves a choice
LONGEST_CELL = 1000  # lines
_SEPARATOR = re.compile(r'"?sep=(.|\\t)"?\r?\n?', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class TableFormat:
    """How a table is read.

    Attributes:
      quoted: whether a cell may stand in quotes, and then hold delimiters and line ends.
      start: the byte at which the header or the first record begins.
      is_guess: whether the file's own quotes told that; a .csv file needs none for it.
    """

    delimiter: str
    quoted: bool
    start: int = 0
    is_guess: bool = False

    def beside(self, others: Iterable["TableFormat"]) -> "TableFormat":
        """How it is read with others of its data set: quotes are text if they are in one."""
        if not self.is_guess or not any(each.is_guess and not each.quoted for each in others):
            return self
        return dataclasses.replace(self, quoted=False)


def check_delimiter(delimiter: str | None) -> str | None:
    """One character; `\\t` and `tab` are written for a tab.

    Raises:
      ValueError: it is no character that may divide cells.
    """
    delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter or "", delimiter)
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ValueError(
            f"{spelled('delimiter')} must be one character, such as ';' or 'tab', not "
            f"{delimiter!r}."
        )
    return delimiter


def find_format(
    path: Path, file: BinaryIO, delimiter: str | None, columns: Sequence[str]
) -> TableFormat:
    """How a table is to be read.

    Args:
      path: its name, for its ending and for errors.
      file: its text, opened at the beginning.
      delimiter: the one that is given.
      columns: of a file without a header, their names.

    Raises:
      ValueError: several delimiters are possible.
    """
    start, stated = _separator_line(file)
    is_tsv = path.suffix.lower() == ".tsv"
    if chosen := delimiter or stated:
        if is_tsv:
            return _by_its_quotes(file, start, chosen, columns)
        return TableFormat(chosen, True, start)
    file.seek(start)
    if is_tsv and (b"\t" in file.readline(LARGEST_RECORD) or len(columns) > 1):
        return _by_its_quotes(file, start, "\t", columns)
    chosen = _chosen_delimiter(path, file, start, columns)
    if is_tsv and chosen is None:
        return _by_its_quotes(file, start, "\t", columns)
    return TableFormat(chosen or ",", True, start)


def _by_its_quotes(
    file: BinaryIO, start: int, delimiter: str, columns: Sequence[str]
) -> TableFormat:
    quoted = is_quoted(file, start, delimiter, columns)
    return TableFormat(delimiter, bool(quoted), start, is_guess=quoted is not None)


def _separator_line(file: BinaryIO) -> tuple[int, str | None]:
    """Where the table begins, and the delimiter that Excel's line `sep=;` states."""
    file.seek(0)
    line = file.readline(LARGEST_RECORD)
    found = _SEPARATOR.fullmatch(line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace"))
    return (len(line), check_delimiter(found[1])) if found else (0, None)


def _chosen_delimiter(path: Path, file: BinaryIO, start: int, columns: Sequence[str]) -> str | None:
    """The delimiter that the header has and with which the records have as many cells.

    Returns:
      None where there seems to be one column only.
    """
    possible = {}
    for delimiter in DELIMITERS:
        rows = [row for row in _first_rows(file, start, delimiter) if row]
        widths = [len(row) for row in rows]
        if widths and (widths[0] == len(columns) or (widths[0] > 1 and not columns)):
            possible[delimiter] = len(set(widths)) == 1
    agreeing = [delimiter for delimiter, agree in possible.items() if agree] or list(possible)
    if len(agreeing) > 1 and not columns:
        shown = " or ".join("a tab" if each == "\t" else repr(each) for each in agreeing)
        raise ValueError(f"{path}: are the cells divided by {shown}? Give {spelled('delimiter')}.")
    return agreeing[0] if agreeing else None


def _first_rows(file: BinaryIO, start: int, delimiter: str) -> list[list[str]]:
    """The header and some records; up to the first that cannot be read."""
    lines, rows = itertools.islice(_text_lines(file, start), LOOKED_AT), []
    with contextlib.suppress(csv.Error):  # the reader of the records says where and why
        for row in csv.reader(lines, delimiter=delimiter, strict=True):
            rows.append(row)
    return rows


def _text_lines(file: BinaryIO, start: int) -> Iterator[str]:
    """The lines from a byte on, without a byte order mark."""
    file.seek(start)
    for line in iter(lambda: file.readline(LARGEST_RECORD), b""):
        yield (line if start else line.removeprefix(codecs.BOM_UTF8)).decode("utf-8", "replace")
        start = 1


def is_quoted(file: BinaryIO, start: int, delimiter: str, columns: Sequence[str]) -> bool | None:
    """Whether quotes divide cells in a .tsv file, and are not text; None where there are none.

    They do where all quotes are as programs write them: around whole cells, doubled within, and
    only around cells that need it or in every text cell, the header's too. In a file in which every
    line by itself has as many cells as the header, no cell holds a line end.
    """
    judge, width, whole = _QuoteJudge(delimiter, not columns), len(columns), True
    for line in _text_lines(file, start):
        line = line.rstrip("\r\n")
        if not line.strip() and not judge.is_open:
            continue
        cells = line.count(delimiter) + 1
        width = width or cells
        whole = whole and cells == width
        if not judge.takes(line):
            return False
    if judge.is_open:
        return False
    if not judge.sees_quotes:
        return None
    return not (judge.spans_lines and whole and width > 1)


class _QuoteJudge:
    """Looks for a quote that no program would have written.

    Attributes:
      sees_quotes: whether there was a quoted cell.
      spans_lines: whether one held a line end.
      is_open: whether a quoted cell goes on in the next line.
    """

    def __init__(self, delimiter: str, has_header: bool):
        end, quoted = re.escape(delimiter), r'"((?:[^"]|"")*)"'
        cell = rf'(?:"(?:[^"]|"")*"|[^"{end}\n]*)'
        self._record = re.compile(rf"{cell}(?:{end}{cell})*")
        self._part = re.compile(rf'(?:{cell}{end})*"(?:[^"]|"")*')
        self._cells = re.compile(rf"(?:^|(?<={end})){quoted}(?={end}|\Z)")
        # Excel quotes a cell with a comma, whatever the delimiter is.
        self._needs = re.compile(rf'[",\n\r{end}]')
        self._delimiter = delimiter
        self._all_quoted = None if has_header else False
        self.sees_quotes = self.spans_lines = self.is_open = False
        self._lines: list[str] = []

    def takes(self, line: str) -> bool:
        """Whether this line, too, is as programs write it."""
        self.spans_lines = self.spans_lines or self.is_open
        self._lines.append(line)
        if self.is_open and '"' not in line:
            return len(self._lines) < LONGEST_CELL
        text = "\n".join(self._lines)
        if self._record.fullmatch(text):
            self._lines, self.is_open = [], False
            return self._needs_its_quotes(text)
        self.is_open = bool(self._part.fullmatch(text))
        return self.is_open and len(self._lines) < LONGEST_CELL

    def _needs_its_quotes(self, record: str) -> bool:
        cells = self._cells.findall(record) if '"' in record else []
        self.sees_quotes = self.sees_quotes or bool(cells)
        if self._all_quoted is None:  # no name in a header needs quotes
            self._all_quoted = len(cells) == record.count(self._delimiter) + 1
        return self._all_quoted or all(map(self._needs.search, cells))
