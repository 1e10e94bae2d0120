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
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax

from prompt_tuning_jax.banks import TunedBank
from prompt_tuning_jax.checkpoints.adapters.adapter import Adapter
from prompt_tuning_jax.data.records import FORMATS, RecordFile
from prompt_tuning_jax.data.records.text_file import TextFile, codec_name, not_utf8
from prompt_tuning_jax.data.templates import Template, check_unicode, field_text
from prompt_tuning_jax.devices import hosts
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.settings.infer_config import InferConfig
from prompt_tuning_jax.settings.setting import PathLike
from prompt_tuning_jax.tuned_prompt import TunedPrompt

TABLES = (".csv", ".tsv")
_LINES = 'With an input template, every line is an object such as {"text": "..."}.'


class Made(NamedTuple):
    """A template, and what a value that is not there counts as in it; see `field_text`."""

    template: Template
    missing: str | None = None


Templates = Mapping[str | None, Made]
"""The name of a prompt -> what makes its inputs; None where records name no prompt."""


Trained = TunedPrompt | TunedBank | Adapter | None
"""What records how its inputs were made: the prompts, or, where there are none, the adapter."""


class Input(NamedTuple):
    """A text, and the prompt that its record names."""

    text: str
    prompt: str | None


class Line(NamedTuple):
    """A line without its end, and where it stands."""

    text: str
    where: str


def prompts_by_name(
    config: InferConfig, prompt: Trained
) -> Mapping[str | None, TunedPrompt | Adapter | None]:
    return {None: prompt} if config.prompts is None else prompt.prompts


def is_ensemble(config: InferConfig) -> bool:
    """Whether several prompts answer every record together."""
    return config.prompts is not None and config.prompt_field is None


def own_templates(config: InferConfig, prompt: Trained) -> Templates:
    """The templates that the prompts' files record; empty where there are none.

    Raises:
      ValueError: the members of an ensemble have several; or records name their prompts, of which
        one has none.
    """
    bank = prompts_by_name(config, prompt)
    recorded = {name: one.metadata.get("input_template") for name, one in bank.items() if one}
    missing = own_missing(config, prompt)
    if config.prompt_field is not None:
        if lacking := [name for name, text in recorded.items() if not text]:
            raise ValueError(
                f"{spelled('prompt_field')} is a field of records: say with "
                f"{spelled('input_template')} which other fields are the input, such as '{{text}}';"
                f" the file of the prompt {lacking[0]} records no template."
            )
        return {name: Made(Template(text), missing[name]) for name, text in recorded.items()}
    texts = {text for text in recorded.values() if text}
    if len(texts) > 1:
        raise ValueError(
            f"The members of the ensemble were trained with other templates ({recorded}): give "
            f"{spelled('input_template')}, or {spelled('template', 'none')} for lines as they are."
        )
    return {None: Made(Template(texts.pop()), missing[None])} if texts else {}


def own_missing(config: InferConfig, prompt: Trained) -> dict[str | None, str | None]:
    """What a missing value counts as for each prompt: as is given, or as its file records it.

    An ensemble, whose name is None, takes what all of its members do. "drop" is for training: here
    every record gets an answer.
    """
    bank = prompts_by_name(config, prompt)
    found = {name: one.metadata.get("missing") if one else None for name, one in bank.items()}
    found = {name: None if own == "drop" else own for name, own in found.items()}
    if is_ensemble(config):
        found[None] = next(iter(found.values())) if len(set(found.values())) == 1 else None
    return {name: config.missing or own for name, own in found.items()}


def say_template(templates: Templates) -> None:
    """Warns that lines are taken as they are, although the prompt knows a template."""
    ((template, _),) = templates.values()
    if hosts.is_first() and not template.adds_nothing:
        warnings.warn(
            f"the prompt was trained with the input template {template.text!r}, and these lines "
            "are taken as they are: they should look as it makes them. JSON lines, .csv and .tsv "
            f"are put into it. {spelled('template', 'none')} turns this off.",
            stacklevel=2,
        )


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
    prompt = None if field is None else field_text(record, field, missing="empty")
    if prompt not in templates:
        raise ValueError(f"it names the prompt {prompt!r}; there are {', '.join(templates)}.")
    template, missing = templates[prompt]
    text = template.render(record, missing, may_drop=False)
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
    """Whether the first line is a JSON object with a template's fields; and all lines again.

    Without templates every object is one.
    """
    first = list(itertools.islice(lines, 1))
    record = None
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(first[0].text) if first else None
    names = [{field.partition(".")[0] for field in t.fields} for t, _ in templates.values()]
    found = isinstance(record, dict) and any(fields <= record.keys() for fields in names or [set()])
    return found, itertools.chain(first, lines)


@contextlib.contextmanager
def opened_lines(input_file: PathLike | None, encoding: str | None) -> Iterator[Iterator[Line]]:
    """The lines of the input file, or of standard input."""
    if input_file is None:
        if jax.process_count() > 1:
            raise ValueError(
                f"Several hosts cannot read one standard input: give {spelled('input_file')}."
            )
        with _standard_input(encoding) as file:
            yield _lines(file, None)
        return
    path = Path(input_file)
    if not path.exists() or path.is_dir():
        raise FileNotFoundError(f"There is no {spelled('input_file')} {path}.")
    with _whole(path, encoding) as file:
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
        where = f"Line {number} of {path or 'the input'}"
        raw = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            told = f"not UTF-8 (byte {error.start + 1} of the line is 0x{raw[error.start]:02x})"
            told += f": set {spelled('encoding')}, such as cp1252."
            if path is not None and path.is_file():
                told = not_utf8(path, raw, error.start)
            raise ValueError(f"{where}: {told}") from error
        yield Line(text.removesuffix("\n").removesuffix("\r"), where)
