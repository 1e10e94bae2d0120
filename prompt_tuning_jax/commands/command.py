"""How a command starts, chooses among commands of its own, and ends."""

import contextlib
import errno
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax

from prompt_tuning_jax.devices import interruption
from prompt_tuning_jax.errors import MISTAKES, UsageError, called, spelling
from prompt_tuning_jax.settings import command_line
from prompt_tuning_jax.settings.setting import nearest_hint


class Inner(NamedTuple):
    """A command of a command, such as `checkpoint convert`: its settings, and what it does."""

    config: type
    run: Callable[[Any], None]
    summary: str


def run_inner(
    commands: Mapping[str, Inner], argv: Sequence[str] | None, description: str, prog: str
) -> None:
    """Runs the one of `commands` that the first argument names.

    Raises:
      UsageError: it names none.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h"):
        listed = "\n".join(f"  {each:<14}{one.summary}" for each, one in commands.items())
        print(f"usage: {prog} COMMAND ...\n\n{description.strip()}\n\ncommands:\n{listed}\n")
        print(f"`{prog} COMMAND --help` explains the settings of one.")
        sys.exit(0)
    if name not in commands:
        hint = nearest_hint(name, commands)
        raise UsageError(f"There is no {prog} {name}{hint} Commands: {', '.join(commands)}.")
    one = commands[name]
    one.run(
        command_line.parse(
            one.config, rest, f"{one.summary[0].upper()}{one.summary[1:]}.", f"{prog} {name}"
        )
    )


def use_compilation_cache() -> None:
    """Keeps compiled programs in ~/.cache/prompt_tuning_jax, so that a second run starts at once.

    JAX_COMPILATION_CACHE_DIR names another directory.
    """
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(cache / "prompt_tuning_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


# A pipe without a reader, a terminal that was closed.
_GONE = (errno.EPIPE, errno.EIO)

_SMALLER = (
    "Lower --batch_size or the lengths, or spread the work: prompt_tuning_jax/devices/README.md."
)
# Where there is no more room; what is written to a file says so in other words.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Unread:
    """Standard output whose reader may have gone (`... | head`, a terminal): it is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._dropped():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropped():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropped(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _GONE:
                raise
            _to_nowhere(self._stream)


def _to_nowhere(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(
    main: Callable[[], None], ends_with_reader: bool = False, line: str = "the same command"
) -> None:
    """Runs a command; mistakes of use end in one line on standard error, not a traceback.

    The exit status is 2 where the command line or a gin file cannot be understood, 1 for what goes
    wrong later, and that of the signal for an interruption. PROMPT_TUNING_TRACEBACK=1 in the
    environment shows where a mistake was found.

    Args:
      ends_with_reader: whether the command has nothing more to do when nobody reads standard output
        any more; otherwise it goes on, for it may have files to write.
      line: the command as it was given.
    """
    use_compilation_cache()
    stdout = sys.stdout or io.StringIO()  # None: it was closed before the start
    unread = stdout if ends_with_reader else _Unread(stdout)
    with contextlib.ExitStack() as reader:
        reader.enter_context(contextlib.redirect_stdout(unread))
        reader.enter_context(spelling(lambda name: f"--{name}"))
        reader.enter_context(called(line))
        reader.enter_context(interruption.second_ends_at_once())
        reader.enter_context(warnings.catch_warnings())
        warnings.showwarning = _say
        _run(main)


def _say(message: Warning | str, *where: Any, **options: Any) -> None:
    """A warning in one line, for people who did not write the code that gives it."""
    print("warning:", " ".join(str(message).splitlines()), file=sys.stderr)


def _run(main: Callable[[], None]) -> None:
    try:
        try:
            main()
        finally:
            sys.stdout.flush()  # here, where a closed pipe is understood
    except BrokenPipeError:
        _to_nowhere(sys.stdout)
        sys.exit(128 + signal.SIGPIPE)
    except MISTAKES as error:
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            _to_nowhere(sys.stdout)  # or it fails once more at the end
            error = OSError(f"Standard output cannot be written ({error.strerror}).")
        if os.environ.get("PROMPT_TUNING_TRACEBACK"):
            traceback.print_exc()
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = " ".join(str(error).split())[:200] or "no more memory"
        print(f"error: There is not enough memory ({reason}). {_SMALLER}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
