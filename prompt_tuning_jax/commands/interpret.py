"""What a tuned prompt means: its nearest words, labels, norms, clusters, and its way in training.

    prompt-tuning interpret bundled_topic
    prompt-tuning interpret runs/topic/best --output runs/topic/meaning
    prompt-tuning interpret sentiment.npy --model t5-v1_1-small --labels positive,negative

or, from Python,

    from prompt_tuning_jax.commands.interpret import interpret
    found = interpret("runs/topic/best")
    found.positions[0].cosine[0].text      # the piece nearest to the first position
    found.to_json()

Each position of the prompt is compared with the embeddings of the frozen model's vocabulary, as in
the paper's section 7. Drift from the initialisation and changes over training are told from the
prompts that training leaves in its MODEL_DIR; for a prompt within one they are found, for any other
`--run` names it. With `--output`, a directory gets `index.html` to read, `interpretation.json`, and
the pictures; without, the terminal gets tables.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich.console

from prompt_tuning_jax.banks import TunedPrompt
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.interpretation.analysis import Snapshot, analyse
from prompt_tuning_jax.interpretation.findings import Interpretation
from prompt_tuning_jax.interpretation.page import write_output
from prompt_tuning_jax.interpretation.table import print_findings
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.settings.prompt_config import own_words
from prompt_tuning_jax.training.outputs import SNAPSHOTS

NEEDS_RUN = (
    "Drift from the initialisation and changes over training need the run that made the prompt: "
    "name its MODEL_DIR with --run."
)


def interpret(
    prompt: str | os.PathLike | TunedPrompt,
    model: FrozenModel | str | os.PathLike = "bundled",
    *,
    neighbours: int = 5,
    labels: Sequence[str] | None = None,
    run: str | os.PathLike | None = None,
    vocabulary: str | os.PathLike | None = None,
    allow_mismatch: bool = False,
) -> Interpretation:
    """Compares a prompt with its model's vocabulary (paper section 7).

    Args:
      prompt: a `TunedPrompt`, or what `load_prompt` takes.
      model: the frozen model it was tuned for, or what `load_model` takes.
      neighbours: k, how many pieces to find for each position.
      labels: class labels to look for; by default the prompt's own verbalizers.
      run: MODEL_DIR of the run that made the prompt; found where the prompt lies in one.
      vocabulary: the model's spiece.model, where the model comes without one.
      allow_mismatch: compare a prompt with another model than its own.

    Raises:
      FileNotFoundError, ValueError: prompt, model or run is not there, or they do not belong
        together.
    """
    tuned = prompt if isinstance(prompt, TunedPrompt) else load_prompt(prompt)
    if run is None and not isinstance(prompt, TunedPrompt):
        run = find_run(prompt)
    snapshots = [] if run is None else read_snapshots(run, tuned)
    if not isinstance(model, FrozenModel):
        model = load_model(model, vocabulary=vocabulary)
    words = model.text_vocabulary("turn a prompt into")
    model.check(tuned, allow_mismatch)
    return analyse(
        tuned.values,
        np.asarray(model.embeddings),
        words,
        k=neighbours,
        labels=list(own_words(tuned) or ()) if labels is None else labels,
        snapshots=snapshots,
        facts=_facts(prompt, tuned, model, run),
        notes=_notes(tuned, snapshots),
    )


def find_run(prompt: str | os.PathLike) -> Path | None:
    """The MODEL_DIR that a prompt lies in, as best/, last/ or prompts/STEP/; None if in none."""
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
            f"{folder / '0'} is not there: {run} is not the MODEL_DIR of a run, or the run did not "
            "keep its prompts."
        )
    snapshots = []
    kept_steps = [file.parent.name for file in folder.glob("*/prompt.safetensors")]
    for step in sorted(int(name) for name in kept_steps if name.isdecimal()):
        kept = load_prompt(folder / str(step))
        if kept.shape != prompt.shape:
            raise ValueError(
                f"The prompts in {folder} are {list(kept.shape)}, this one is "
                f"{list(prompt.shape)}: give the MODEL_DIR of the run that made it."
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
        notes.append(NEEDS_RUN)
    for snapshot in snapshots:
        same_step = snapshot.step == prompt.metadata.get("step")
        if same_step and not np.array_equal(snapshot.values, prompt.values):
            notes.append(f"The run's prompt at step {snapshot.step} is not this prompt.")
    return notes


def parser() -> command.Parser:
    one = command.Parser(description=__doc__)
    one.add_argument("prompt", metavar="PROMPT", help="prompt file, directory or name")
    one.add_argument("--model", default="bundled", help="the frozen model; bundled by default")
    one.add_argument("--vocabulary", help="the model's spiece.model, where it comes without one")
    one.add_argument("--neighbours", type=int, default=5, metavar="K", help="5 by default")
    one.add_argument("--labels", help="words with commas between them, instead of the prompt's own")
    one.add_argument("--run", metavar="MODEL_DIR", help="the run that made the prompt")
    one.add_argument("--output", metavar="DIR", help="write a page, pictures and JSON there")
    one.add_argument("--allow_mismatch", action="store_true", help="a prompt of another model")
    return one


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    found = interpret(
        args.prompt,
        args.model,
        neighbours=args.neighbours,
        labels=None if args.labels is None else args.labels.split(","),
        run=args.run,
        vocabulary=args.vocabulary,
        allow_mismatch=args.allow_mismatch,
    )
    if args.output is None:
        print_findings(found, rich.console.Console(highlight=False))
    else:
        print(write_output(found, args.output))


if __name__ == "__main__":
    command.run(main)
