"""What `infer` answers: lines of text as they are, or records that a template makes inputs of.

A line ends with a line feed and with nothing else, so that there are as many answers as `wc -l`
counts lines, whatever characters they hold.
"""

import codecs
import contextlib
import io
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax

from prompt_tuning_jax.data.records import FORMATS, RecordFile
from prompt_tuning_jax.data.records.text_file import TextFile, codec_name, not_utf8
from prompt_tuning_jax.data.templates import Template, check_unicode, field_text
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.settings.infer_config import InferConfig

TABLES = (".csv", ".tsv")
_LINES = 'With an input template, every line is an object such as {"text": "..."}.'

Templates = Mapping[str | None, Template]
"""The name of a prompt -> what makes its inputs; None where records name no prompt."""


class Input(NamedTuple):
    """A text, and the prompt that its record names."""

    text: str
    prompt: str | None


class Line(NamedTuple):
    """A line without its end, and where it stands."""

    text: str
    where: str


def read_inputs(
    config: InferConfig, templates: Templates, lines: Iterator[Line] | None = None
) -> Iterator[Input]:
    """The inputs of a file of records, or of the lines of any file or of standard input.

    Args:
      templates: empty where lines are taken as they are.
      lines: those that were opened already.

    Raises:
      ValueError: a line that is no record, or lacks a field; it is named.
    """
    if not templates:
        for text, where in lines or ():
            check_unicode(text, f"{where}: text")
            yield Input(text, None)
        return
    records = table_records(config) if is_table(config) else json_records(lines or ())
    for record, where in records:
        try:
            yield made(record, templates, config)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def made(record: Mapping[str, Any], templates: Templates, config: InferConfig) -> Input:
    """The input that a record's prompt asks for."""
    field = config.prompt_field
    prompt = None if field is None else field_text(record, field)
    if prompt not in templates:
        raise ValueError(f"it names the prompt {prompt!r}; there are {', '.join(templates)}.")
    text = templates[prompt].render(record, config.missing)
    check_unicode(text, "text")
    return Input(text, prompt)


def is_table(config: InferConfig) -> bool:
    return config.input_file is not None and Path(config.input_file).suffix.lower() in TABLES


def is_records(config: InferConfig) -> bool:
    """Whether the file's name says that it holds records."""
    return config.input_file is not None and Path(config.input_file).suffix.lower() in FORMATS


def table_records(config: InferConfig) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The records of a .csv or .tsv file, each with its place."""
    file = RecordFile(config.input_file, config.columns, config.encoding, config.delimiter)
    for _, line, record in file.scan():
        yield record, f"{file.path}, line {line}"


def json_records(lines: Iterable[Line]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The records of JSON lines; empty lines are none."""
    for text, where in lines:
        if text.strip():
            yield json_object(text, where, _LINES), where


def begins_with_record(lines: Iterator[Line], templates: Templates) -> tuple[bool, Iterator[Line]]:
    """Whether the first line is a JSON object with a template's fields; and all lines again."""
    first = list(itertools.islice(lines, 1))
    record = None
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(first[0].text) if first else None
    names = [{field.partition(".")[0] for field in t.fields} for t in templates.values()]
    found = isinstance(record, dict) and any(fields <= record.keys() for fields in names)
    return found, itertools.chain(first, lines)


@contextlib.contextmanager
def opened_lines(config: InferConfig) -> Iterator[Iterator[Line]]:
    """The lines of the input file, or of standard input."""
    if config.input_file is None:
        if jax.process_count() > 1:
            raise ValueError(
                f"Several hosts cannot read one standard input: give {spelled('input_file')}."
            )
        with _standard_input(config.encoding) as file:
            yield _lines(file, None)
        return
    path = Path(config.input_file)
    if not path.exists() or path.is_dir():
        raise FileNotFoundError(f"There is no {spelled('input_file')} {path}.")
    with _whole(path, config.encoding) as file:
        yield _lines(file, path)


@contextlib.contextmanager
def _whole(path: Path, encoding: str | None) -> Iterator[BinaryIO]:
    """A file as UTF-8; one that is none, such as a pipe, is read as it comes."""
    if not path.is_file():
        with path.open("rb") as pipe, _as_utf8(pipe, encoding) as file:
            yield file
        return
    text = TextFile(path, encoding, old_mac=False)
    with text.open() as file:
        yield file


@contextlib.contextmanager
def _standard_input(encoding: str | None) -> Iterator[BinaryIO]:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:  # a notebook's
        stream = io.BytesIO(sys.stdin.read().encode("utf-8", "surrogateescape"))
    with _as_utf8(stream, encoding) as file:
        yield file


@contextlib.contextmanager
def _as_utf8(stream: BinaryIO, encoding: str | None) -> Iterator[BinaryIO]:
    """A stream as UTF-8; of another encoding it is first read to its end."""
    if codec_name(encoding) == "utf-8":
        yield stream
        return
    with tempfile.NamedTemporaryFile(prefix="prompt_tuning_") as copy:
        shutil.copyfileobj(stream, copy)
        copy.flush()
        text = TextFile(copy.name, encoding, old_mac=False)
        with text.open() as file:
            yield file


def _lines(file: BinaryIO, path: Path | None) -> Iterator[Line]:
    for number, raw in enumerate(iter(file.readline, b""), start=1):
        where = f"Line {number} of the input"
        raw = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            told = f"not UTF-8 (byte {error.start + 1} of the line is 0x{raw[error.start]:02x})"
            told += f": set {spelled('encoding')}, such as cp1252."
            if path is not None and path.is_file():
                where, told = f"{path}: {where}", not_utf8(path, raw, error.start)
            raise ValueError(f"{where}: {told}") from error
        yield Line(text.removesuffix("\n").removesuffix("\r"), where)
