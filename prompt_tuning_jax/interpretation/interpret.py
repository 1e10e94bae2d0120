"""What a tuned prompt means, compared with its model's vocabulary and its way in training.

import prompt_tuning_jax as pt
found = pt.interpret("runs/topic/best")
found.positions[0].cosine[0].text      # the piece nearest to the first position
found.to_json()
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prompt_tuning_jax.checkpoints.prompt_file import SNAPSHOTS, load_prompt
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.interpretation.analysis import Snapshot, analyse
from prompt_tuning_jax.interpretation.findings import Interpretation
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.settings.prompt_config import own_words
from prompt_tuning_jax.tuned_prompt import TunedPrompt


def interpret(
    prompt: str | os.PathLike | TunedPrompt,
    model: FrozenModel | str | os.PathLike = "bundled",
    *,
    neighbours: int = 5,
    verbalizers: Sequence[str] | None = None,
    model_dir: str | os.PathLike | None = None,
    vocabulary: str | os.PathLike | None = None,
    allow_prompt_mismatch: bool = False,
) -> Interpretation:
    """Compares a prompt with its model's vocabulary (paper section 7).

    Args:
      prompt: a `TunedPrompt`, or what `load_prompt` takes.
      model: the frozen model it was tuned for, or what `load_model` takes.
      neighbours: k, how many pieces to find for each position.
      verbalizers: class labels to look for; by default the prompt's own.
      model_dir: of the run that made the prompt; found where the prompt lies in one.
      vocabulary: the model's spiece.model, where the model comes without one.
      allow_prompt_mismatch: compare a prompt with another model than its own.

    Raises:
      FileNotFoundError, ValueError: prompt, model or run is not there, or they do not belong
        together.
    """
    tuned = prompt if isinstance(prompt, TunedPrompt) else load_prompt(prompt)
    if model_dir is None and not isinstance(prompt, TunedPrompt):
        model_dir = find_run(prompt)
    snapshots = [] if model_dir is None else read_snapshots(model_dir, tuned)
    if not isinstance(model, FrozenModel):
        model = load_model(model, vocabulary=vocabulary)
    words = model.text_vocabulary("turn a prompt into")
    model.check(tuned, allow_prompt_mismatch)
    return analyse(
        tuned.values,
        np.asarray(model.embeddings),
        words,
        k=neighbours,
        labels=list(own_words(tuned) or ()) if verbalizers is None else verbalizers,
        snapshots=snapshots,
        facts=_facts(prompt, tuned, model, model_dir),
        notes=_notes(tuned, snapshots),
    )


def find_run(prompt: str | os.PathLike) -> Path | None:
    """The directory of the run that a prompt lies in, as best/, last/ or prompts/STEP/, or None."""
    place = Path(prompt)
    if not place.exists():  # the name of a bundled prompt
        return None
    place = place.resolve()
    for folder in place.parents[:3]:
        within = place.relative_to(folder).parts[0] in ("best", "last", SNAPSHOTS)
        is_run = (folder / "state").is_dir() or (folder / "history.json").is_file()
        if within and is_run and (folder / SNAPSHOTS / "0").is_dir():
            return folder
    return None


def read_snapshots(run: str | os.PathLike, prompt: TunedPrompt) -> list[Snapshot]:
    """The prompts that a run kept, in the order of steps; the first is its initialisation.

    Raises:
      FileNotFoundError: the directory is no run's, or of a run that kept none.
      ValueError: they have another shape than `prompt`.
    """
    folder = Path(run) / SNAPSHOTS
    if not (folder / "0").is_dir():
        raise FileNotFoundError(
            f"{folder / '0'} is not there: {run} is not the directory of a run, or the run did not "
            "keep its prompts."
        )
    snapshots = []
    kept_steps = [file.parent.name for file in folder.glob("*/prompt.safetensors")]
    for step in sorted(int(name) for name in kept_steps if name.isdecimal()):
        kept = load_prompt(folder / str(step))
        if kept.shape != prompt.shape:
            raise ValueError(
                f"The prompts in {folder} are {list(kept.shape)}, this one is "
                f"{list(prompt.shape)}: name the run that made it with {spelled('model_dir')}."
            )
        snapshots.append(Snapshot(step, kept.values, kept.metadata.get("scores", {})))
    return snapshots


def _facts(
    prompt: Any, tuned: TunedPrompt, model: FrozenModel, run: str | os.PathLike | None
) -> dict[str, Any]:
    facts = {
        "path": None if isinstance(prompt, TunedPrompt) else os.fspath(prompt),
        "model": model.name,
        "run": None if run is None else os.fspath(run),
        "length": tuned.shape[0],
        "width": tuned.shape[1],
        "layout": tuned.layout,
        **{name: tuned.metadata.get(name) for name in ("task", "step", "scores")},
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _notes(prompt: TunedPrompt, snapshots: Sequence[Snapshot]) -> list[str]:
    notes = []
    if not snapshots:
        notes.append(
            "Drift from the initialisation and changes over training need the run that made the "
            f"prompt: name its directory with {spelled('model_dir')}."
        )
    for snapshot in snapshots:
        same_step = snapshot.step == prompt.metadata.get("step")
        if same_step and not np.array_equal(snapshot.values, prompt.values):
            notes.append(f"The run's prompt at step {snapshot.step} is not this prompt.")
    return notes
