"""Files of data sets as their makers release them: folders, or the archives they come in.

Every fault is one error that names the file, and the line in it, and says what to do.
"""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

AGAIN = "The file is damaged or its download was cut short: download it again"
DAMAGE = (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)


def find(root: Path, folders: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of `names` that lies in one of `folders` below `root`, or in a folder's archive.

    A file may be compressed (`name.gz`), and a folder still packed (`folder.zip`). The answer is
    what `lines` takes: a path, or "archive.zip!member".

    Raises:
      ValueError: an archive is damaged.
    """
    for folder in folders:
        for name in names:
            for path in (root / folder / name, root / folder / f"{name}.gz"):
                if path.is_file():
                    return str(path)
        archive = root / f"{folder}.zip"
        if folder and archive.is_file() and (member := _member(archive, names)):
            return f"{archive}!{member}"
    return None


def _member(archive: Path, names: Sequence[str]) -> str | None:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is no complete zip archive ({error}). {AGAIN}.") from error
    kept = [member for member in members if not member.startswith("__MACOSX/")]
    return next((m for name in names for m in kept if m.split("/")[-1] == name), None)


def found(root: Path, folders: Sequence[str], names: Sequence[str]) -> str:
    """`find`, where the file must be there.

    Raises:
      FileNotFoundError: it is not; the error lists where it was looked for.
    """
    file = find(root, folders, names)
    if file is None:
        places = ", ".join(str(root / folder / name) for folder in folders for name in names)
        raise FileNotFoundError(
            f"No release file at {places}. Put the data set there as it is released (its folder, "
            "or its zip archive), or unset the data directory to read from TFDS."
        )
    return file


def lines(file: str) -> Iterator[tuple[str, str]]:
    """("file:number", the line without its end) for each line of a file that `find` found.

    Raises:
      ValueError: a damaged archive, an empty file, or one that is not UTF-8.
    """
    number = 0
    try:
        with _opened(file) as binary:
            # A carriage return within a line is text.
            for line in io.TextIOWrapper(binary, encoding="utf-8-sig", newline="\n"):
                number += 1
                yield f"{file}:{number}", line.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}:{number + 1}: not UTF-8 text ({error}). {AGAIN}.") from error
    except DAMAGE as error:
        raise ValueError(f"{file}: incomplete archive ({error}). {AGAIN}.") from error
    if not number:
        raise ValueError(f"{file} is empty. {AGAIN}.")


def _opened(file: str) -> IO[bytes]:
    archive, separator, member = file.partition(".zip!")
    if separator:
        return zipfile.ZipFile(f"{archive}.zip").open(member)
    return gzip.open(file) if file.endswith(".gz") else open(file, "rb")


def json_lines(file: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """("file:number", the object) for each line of a .jsonl file.

    Raises:
      ValueError: a line holds no JSON object.
    """
    for where, line in lines(file):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: malformed line, not JSON ({error}). {AGAIN}.") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where}: malformed line, no JSON object. {AGAIN}.")
        yield where, record


def rows(file: str, columns: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, str]]]:
    """("file:number", column -> text) for each row of a tab-separated file.

    Quotation marks are text: the files have unbalanced ones. The first row names the columns,
    unless `columns` does. Cells beyond the last column are dropped, cells that a row lacks are
    missing from its mapping, and empty lines are no rows.
    """
    for where, line in lines(file):
        cells = line.split("\t")
        if columns is None:
            columns = cells
        elif line:
            yield where, dict(zip(columns, cells, strict=False))


def field(record: Mapping[str, Any], name: str, where: str, kind: type = object) -> Any:
    """A field that every record of the data set has, and of which type.

    Raises:
      ValueError: this one lacks it, or has something else there.
    """
    if name not in record:
        raise ValueError(
            f"{where}: malformed line, no {name!r}; it has {', '.join(record) or 'nothing'}. "
            f"{AGAIN}."
        )
    if not isinstance(record[name], kind):
        raise ValueError(
            f"{where}: malformed line, {name!r} is {record[name]!r} and no {kind.__name__}. "
            f"{AGAIN}."
        )
    return record[name]
