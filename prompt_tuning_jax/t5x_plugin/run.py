"""How a T5X run begins, before anything is loaded, and how it ends when it fails."""

import atexit
import os
import re
import sys
import types
from pathlib import Path

from prompt_tuning_jax import gin_configs
from prompt_tuning_jax.checkpoints.t5x.storage import is_url
from prompt_tuning_jax.errors import MISTAKES, spell_as
from prompt_tuning_jax.settings.gin_files import check_known, given_macros
from prompt_tuning_jax.settings.setting import macro_name

_PACKAGE = Path(__file__).parents[1]
_GIN = Path(gin_configs.__file__).parent
# Where an error of ours is raised: the library, and the tasks that stand beside it in a clone.
_OURS = tuple(f"{path}{os.sep}" for path in (_PACKAGE, _GIN.parent / "tasks"))


def begin(directory: str) -> str:
    """The directory that a run writes to, from the root, once its settings are known to be ones.

    Bound first in a program's gin file, so that a misspelt macro ends a run before it starts.

    Args:
      directory: MODEL_DIR, or the output directory of an evaluation or inference.

    Raises:
      ValueError: a macro that is no setting of these runs and that nothing uses.
    """
    _end_in_one_line()
    spell_as(macro_name)
    check_known(given_macros(), _settings())
    return absolute(directory)


def absolute(path: str) -> str:
    """A path from here as one from the root, which Orbax asks for; a URL as it is."""
    return path if is_url(path) else os.path.abspath(path)


def _settings() -> list[str]:
    """Every macro that the gin files for T5X set or use."""
    texts = [path.read_text() for path in sorted((_GIN / "t5x").rglob("*.gin"))]
    names = (re.findall(r"(?:^|%)([A-Z][A-Z0-9_]*)\b(?: =)?", text, re.MULTILINE) for text in texts)
    return sorted({name for found in names for name in found})


def _end_in_one_line() -> None:
    """Has an error of this library end the log as one line, after whatever else is still logged.

    PROMPT_TUNING_TRACEBACK=1 in the environment shows where it was raised as well.
    """
    if getattr(sys.excepthook, "__module__", None) == __name__:
        return
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: types.TracebackType) -> None:
        if not (isinstance(error, MISTAKES) and _is_ours(trace)):
            show(kind, error, trace)
            return
        if os.environ.get("PROMPT_TUNING_TRACEBACK"):
            show(kind, error, trace)
        atexit.register(print, "error:", one_line(error), file=sys.stderr)

    sys.excepthook = hook


def _is_ours(trace: types.TracebackType) -> bool:
    """Whether the error was raised by a statement of this library."""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return os.path.abspath(trace.tb_frame.f_code.co_filename).startswith(_OURS)


def one_line(error: BaseException) -> str:
    """An error's own message, without where gin was when it happened."""
    return " ".join(str(error).split("\n  In call to configurable ")[0].split())
