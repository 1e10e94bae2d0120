"""The prompts below a folder: of runs the best one, of anything else each file."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.prompt_file import PREBUILT, SNAPSHOTS, load_prompt
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.settings.setting import PathLike
from prompt_tuning_jax.tuned_prompt import TunedPrompt

BUNDLED = "bundled"
_VALUES = "prompt.safetensors"
_OF_A_RUN = ("last", SNAPSHOTS, "state", "tensorboard")  # beside its best prompt


class Source(NamedTuple):
    """A prompt and where it was found.

    Attributes:
      name: its path below the folder; of a run's prompt, the run's.
    """

    name: str
    path: Path
    prompt: TunedPrompt

    @property
    def task(self) -> str | None:
        return self.prompt.metadata.get("task")


class Found(NamedTuple):
    """What is below a folder.

    Attributes:
      sources: in order of their names.
      notes: a sentence for each prompt that was left out.
    """

    sources: list[Source]
    notes: list[str]


def find_prompts(folder: PathLike, step: int | None = None) -> Found:
    """The prompts below `folder`: directories that `save_prompt` wrote, PEFT's, and `.npy` files.

    Of a run, which holds more than one, its `best/` counts.

    Args:
      folder: or "bundled", for the prompts that come with the bundled models.
      step: of runs, the prompt that they kept at this step instead, as `prompts/STEP/`; prompts of
        no run are then left out.

    Raises:
      FileNotFoundError: there is no such folder, or no prompt below it.
    """
    folder = Path(folder)
    if str(folder) == BUNDLED and not folder.exists():
        folder = PREBUILT
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: name one that holds prompts.")
    sources, notes = [], []
    for path in sorted(_places(folder, step)):
        try:
            sources.append(Source(name_below(folder, path), path, load_prompt(path)))
        except (ValueError, FileNotFoundError) as error:
            notes.append(f"{path} is left out: {error}")
    if not sources:
        kept = f" that a run kept at {spelled('step', step)}" if step is not None else ""
        reasons = f": {notes[0]}" if notes else "."
        raise FileNotFoundError(f"There is no prompt{kept} below {folder}{reasons}")
    return Found(sources, notes)


def name_below(folder: Path, path: Path) -> str:
    """What a prompt is called: `topic` for topic/best, or for topic/prompts/1000."""
    parts = path.absolute().relative_to(folder.absolute()).parts
    if parts[-1:] in (("best",), ("last",)):
        parts = parts[:-1]
    elif len(parts) > 1 and parts[-2] == SNAPSHOTS and parts[-1].isdecimal():
        parts = parts[:-2]
    return "/".join(parts) or folder.absolute().name


def _places(folder: Path, step: int | None) -> Iterator[Path]:
    """The directory or file of each prompt."""
    seen: set[Path] = set()  # a link may lead to where it stands
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        folders.sort()
        if _is_run(here, folders):
            folders[:] = [name for name in folders if name not in _OF_A_RUN]
            if step is not None:
                folders[:] = [name for name in folders if name != "best"]
                if (here / SNAPSHOTS / str(step) / _VALUES).is_file():
                    yield here / SNAPSHOTS / str(step)
        if step is None:
            yield from _own(here, files)


def _own(here: Path, files: Sequence[str]) -> Iterator[Path]:
    if _VALUES in files or peft.is_adapter(here):
        yield here
    yield from (here / name for name in files if name.endswith(".npy"))


def _is_run(here: Path, folders: Sequence[str]) -> bool:
    """Whether a directory holds several prompts of one run."""
    best = "best" in folders and (here / "best" / _VALUES).is_file()
    return best or (SNAPSHOTS in folders and (here / SNAPSHOTS / "0" / _VALUES).is_file())
