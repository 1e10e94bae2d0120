"""Where the prompts below a folder are, and what each is called: of runs the best one."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.prompt_file import PREBUILT, SNAPSHOTS

_BUNDLED = "bundled"
_VALUES = "prompt.safetensors"
_OF_A_RUN = ("last", SNAPSHOTS, "state", "tensorboard")  # beside its best prompt


def existing_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder itself; of "bundled", where there is none, that of the pre-built prompts.

    Raises:
      FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if str(folder) == _BUNDLED and not folder.exists():
        folder = PREBUILT
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: name one that holds prompts.")
    return folder


def places(folder: Path, step: int | None = None) -> Iterator[Path]:
    """The directory or file of each prompt below `folder`.

    They are directories that `save_prompt` wrote, PEFT's, and `.npy` files. Of a run, which holds
    more than one prompt, its `best/` counts.

    Args:
      step: of runs, the prompt that they kept at this step instead, as `prompts/STEP/`; prompts of
        no run are then left out.
    """
    seen: set[Path] = set()  # a link may lead to where it stands
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        there = here.resolve()
        if there in seen:
            folders.clear()
            continue
        seen.add(there)
        folders.sort()
        if _is_run(here, folders):
            folders[:] = [name for name in folders if name not in _OF_A_RUN]
            if step is not None:
                folders[:] = [name for name in folders if name != "best"]
                if (here / SNAPSHOTS / str(step) / _VALUES).is_file():
                    yield here / SNAPSHOTS / str(step)
        if step is None:
            yield from _own(here, files)


def name_below(folder: Path, path: Path) -> str:
    """What a prompt is called: `topic` for topic/best, or for topic/prompts/1000."""
    parts = path.absolute().relative_to(folder.absolute()).parts
    if parts[-1:] in (("best",), ("last",)):
        parts = parts[:-1]
    elif len(parts) > 1 and parts[-2] == SNAPSHOTS and parts[-1].isdecimal():
        parts = parts[:-2]
    return "/".join(parts) or folder.absolute().name


def _own(here: Path, files: Sequence[str]) -> Iterator[Path]:
    if _VALUES in files or peft.is_adapter(here):
        yield here
    yield from (here / name for name in files if name.endswith(".npy"))


def _is_run(here: Path, folders: Sequence[str]) -> bool:
    """Whether a directory holds several prompts of one run."""
    best = "best" in folders and (here / "best" / _VALUES).is_file()
    return best or (SNAPSHOTS in folders and (here / SNAPSHOTS / "0" / _VALUES).is_file())
