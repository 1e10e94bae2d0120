"""A text file of any encoding, read as UTF-8.

What reads records finds them by byte offsets, which asks for an encoding in which a line's end is
one byte. A file of another encoding, or with the line ends of old Macs, is therefore rewritten
once, block by block, into a temporary file.
"""

import codecs
import difflib
import encodings.aliases
import functools
import io
import os
import re
import tempfile
from pathlib import Path
from typing import IO, BinaryIO

from prompt_tuning_jax.errors import spelled

BLOCK = 2**20
"""Bytes read at a time, and looked at to recognise an encoding."""

LARGEST_RECORD = 64 * 2**20
"""Bytes of the largest record read, so that a file without line ends cannot fill the memory."""

# In this order: UTF-32's mark begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHERS = (
    "cp1250 (Central Europe), cp1251 (Cyrillic), cp932 (Japanese), gb18030 (Chinese), mac_roman"
)
_MOST_HIGH = 0.25  # of Western European text, this share of the letters at most has an accent


class TextFile:
    """A file's text as bytes of UTF-8 in which every line ends with a line feed.

    Args:
      encoding: how the file is encoded; UTF-8 if not given.
      old_mac: whether a file without any line feed has lines that end in carriage returns.

    Raises:
      ValueError: there is no such encoding.
      FileNotFoundError: there is no such file.
    """

    def __init__(
        self, path: str | os.PathLike[str], encoding: str | None = None, old_mac: bool = True
    ):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no file {self.path}: check the path.")
        self.encoding = codec_name(encoding)
        self._old_mac = old_mac

    def open(self) -> BinaryIO:
        """The text from its beginning; a byte order mark is still there.

        Raises:
          ValueError: the file has another encoding than it should.
        """
        return open(self._place, "rb")

    @functools.cached_property
    def _place(self) -> str:
        """Where the text lies in UTF-8: the file itself, or a copy that lives as long as this."""
        with self.path.open("rb") as file:
            head = file.read(BLOCK)
        if self.encoding == "utf-8" and (found := _wide(head, 0.5)):
            raise ValueError(f"{self.path} is {found}, not UTF-8: {_give(found)}")
        old_mac = self._old_mac and _ends_in_returns(head, self.encoding)
        if self.encoding == "utf-8" and not old_mac:
            return str(self.path)
        self._copy = tempfile.NamedTemporaryFile(prefix="prompt_tuning_", suffix=".txt")  # noqa: SIM115
        self._rewrite(self._copy, old_mac)
        return self._copy.name

    def _rewrite(self, target: IO[bytes], old_mac: bool) -> None:
        """Writes the whole text as UTF-8."""
        decoder = codecs.getincrementaldecoder(self.encoding)()
        text_of: codecs.IncrementalDecoder | io.IncrementalNewlineDecoder = decoder
        if old_mac:
            text_of = io.IncrementalNewlineDecoder(decoder, translate=True)
        is_utf8, line = _Utf8Check(), 1
        with self.path.open("rb") as source:
            while True:
                block = source.read(BLOCK)
                is_utf8.add(block)
                try:
                    text = text_of.decode(block, final=not block)
                    target.write(text.encode("utf-8"))
                except UnicodeError as error:
                    raise ValueError(self._misread(error, line)) from error
                line += text.count("\n")
                if not block:
                    break
        target.flush()
        if self.encoding != "utf-8" and is_utf8.holds:
            raise ValueError(
                f"{self.path} is UTF-8, not {self.encoding}: leave out "
                f"{spelled('encoding', self.encoding)}."
            )

    def _misread(self, error: UnicodeError, line: int) -> str:
        why = str(error)
        if isinstance(error, UnicodeDecodeError):
            before = error.object[: error.start].decode(self.encoding, errors="ignore")
            line, why = line + before.count("\n"), error.reason
        return (
            f"{self.path}, line {line}: not {self.encoding} ({why}); set {spelled('encoding')} to "
            "the file's own, or leave it out for UTF-8."
        )


class _Utf8Check:
    """Whether all that was added is UTF-8 with some characters beyond ASCII."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._valid, self._beyond_ascii = True, False

    def add(self, block: bytes) -> None:
        """The next bytes; none at the end."""
        self._beyond_ascii = self._beyond_ascii or not block.isascii()
        if self._valid:
            try:
                self._decoder.decode(block, final=not block)
            except UnicodeDecodeError:
                self._valid = False

    @property
    def holds(self) -> bool:
        return self._valid and self._beyond_ascii


def codec_name(encoding: str | None) -> str:
    """Python's name of a text encoding; "utf-8" for None, and with a byte order mark.

    Raises:
      ValueError: there is none of that name.
    """
    if encoding is None:
        return "utf-8"
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)  # refuses what is no text encoding, such as base64
    except (LookupError, UnicodeError, ValueError) as error:
        known = sorted({*encodings.aliases.aliases, *encodings.aliases.aliases.values()})
        near = difflib.get_close_matches(encoding.lower().replace("-", "_"), known, 1)
        hint = f"did you mean {near[0]}?" if near else "such as cp1252, utf-16 or cp932."
        raise ValueError(f"{spelled('encoding')} {encoding!r} is no encoding; {hint}") from error
    return "utf-8" if name == "utf-8-sig" else name


def not_utf8(path: Path, raw: bytes, start: int) -> str:
    """What is wrong with a record that is not UTF-8 at byte `start`, and what to do."""
    with path.open("rb") as file:
        head = file.read(BLOCK)
    what = f"not UTF-8 (byte {start + 1} of the record is 0x{raw[start]:02x})"
    if found := _wide(head, 0.02):
        return f"{what}; the file looks like {found}: {_give(found)}"
    if _is_western(head) and _is_western(raw):
        word = re.split(rb"[\s,;|\"]", raw[:start])[-1] + re.split(rb"[\s,;|\"]", raw[start:])[0]
        return (
            f"{what}. The file looks like cp1252, as Excel's CSV is in Western Europe and America; "
            f"it then reads {word[:40].decode('cp1252', 'replace')!r}. If that is right, "
            f"{_give('cp1252')} Other encodings: {_OTHERS}."
        )
    return f"{what}: set {spelled('encoding')} to the file's own, such as {_OTHERS}."


def _give(encoding: str) -> str:
    return f"give {spelled('encoding', encoding)}."


def _wide(head: bytes, share: float) -> str | None:
    """The encoding of two or four bytes for each character that a file's beginning shows.

    Args:
      share: of the characters, at least so many must be of one byte and a zero.
    """
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    even, odd = head[0::2].count(0), head[1::2].count(0)
    # Blanks, digits and line ends have a zero byte, in any language.
    if max(even, odd) > share * len(head) / 2 and min(even, odd) <= 0.01 * max(even, odd):
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def _is_western(sample: bytes) -> bool:
    """Whether bytes may be cp1252: some accents and signs among ASCII letters."""
    high = len(sample) - len(sample.translate(None, bytes(range(128, 256))))
    letters = len(re.findall(rb"[A-Za-z]", sample)) + high
    try:
        sample.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return high <= _MOST_HIGH * letters or letters < 20


def _ends_in_returns(head: bytes, encoding: str) -> bool:
    text = head.decode(encoding, errors="ignore")
    return "\r" in text and "\n" not in text
