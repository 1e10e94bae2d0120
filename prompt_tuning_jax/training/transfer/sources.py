"""The prompts below a folder: of runs the best one, of anything else each file."""

from pathlib import Path
from typing import NamedTuple

from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.checkpoints.prompt_folder import existing_folder, name_below, places
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.settings.setting import PathLike
from prompt_tuning_jax.tuned_prompt import TunedPrompt


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
    folder = existing_folder(folder)
    sources, notes = [], []
    for path in sorted(places(folder, step)):
        try:
            sources.append(Source(name_below(folder, path), path, load_prompt(path)))
        except (ValueError, FileNotFoundError) as error:
            notes.append(f"{path} is left out: {error}")
    if not sources:
        kept = f" that a run kept at {spelled('step', step)}" if step is not None else ""
        reasons = f": {notes[0]}" if notes else "."
        raise FileNotFoundError(f"There is no prompt{kept} below {folder}{reasons}")
    return Found(sources, notes)
