"""Writing files so that they are never seen half-written, even after a kill."""

import contextlib
import errno
import glob
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

# What is wrong with a disk, and not with what is written or read.
_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
_REASONS = [os.strerror(number) for number in _OF_A_DISK]


class WriteError(OSError):
    """A file or directory cannot be written; says which, why and what to do."""


def is_of_a_disk(error: Exception) -> bool:
    """Whether an error, of whichever library, says that something could not be written."""
    return isinstance(error, OSError) or any(reason in str(error) for reason in _REASONS)


def write_error(path: str | os.PathLike, reason: object) -> WriteError:
    """For a `reason` that may be a long text of another library's."""
    told = " ".join(str(reason).split())
    reason = next((each for each in _REASONS if each in told), told[:300])
    return WriteError(
        f"{path} cannot be written ({reason}). What was there before is whole: make room or see to "
        "the directory, and repeat, or choose another one."
    )


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Errors of the disk, and those about `path` and what is in it, become a WriteError."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        named = error.filename is not None
        if not (_is_about(error, Path(path)) if named else error.errno in _OF_A_DISK):
            raise
        raise write_error(path, error.strerror or error) from error


def _is_about(error: OSError, path: Path) -> bool:
    """Whether an error names `path`, what is in it, where it is, or its temporary file."""
    if not isinstance(error.filename, str | os.PathLike):
        return False
    named, path = Path(os.path.abspath(error.filename)), Path(os.path.abspath(path))
    within = path.is_relative_to(named) or named.is_relative_to(path)
    return within or any(part.startswith(_partial(path).name) for part in named.parts)


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`; renamed to it, replacing what was there, at a clean exit.

    What a symbolic link names is replaced, not the link. A pipe or a device is no file to replace:
    it is the path itself.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name a file in it.")
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path))
    partial = _partial(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        partial.touch()  # a directory that cannot be written to shows now
    try:
        with naming(path):
            yield partial
            flush_to_disk(partial)
            os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_directory(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary directory beside `path`, on the same disk; gone at the end, unless renamed."""
    path = Path(path)
    _clear(path)
    partial = _partial(path)
    with naming(path):
        partial.mkdir(parents=True)
    try:
        with naming(path):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_tensors(
    tensors: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str]
) -> None:
    """A safetensors file that others may read if the umask says so; the library's own may not."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata=dict(metadata))
    except SafetensorError as error:  # which has no number
        raise OSError(errno.EIO, str(error), str(path)) from error
    path.chmod(mode)


def flush_to_disk(path: Path) -> None:
    """Waits until a file's bytes are on the disk; a rename alone does not promise it."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _clear(path: Path) -> None:
    """Removes what processes that were killed have left of writing `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
        number = left.name.rpartition("-")[2]
        if not number.isdecimal():  # not of this module's making
            continue
        process = int(number)
        # In a container that starts again, the killed process had this one's own number.
        if process != os.getpid() and _is_alive(process):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{os.getpid()}")
