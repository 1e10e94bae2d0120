"""Where a new task starts: at the prompts of other tasks that are nearest to its own (SPoT).

`nearest:FOLDER` is the nearest prompt below a folder, `nearest:FOLDER:3` the mean of the three
nearest, weighted by similarity (Vu et al. 2022, section 4.2). What is compared is the new task's
embedding: its own prompt after a few steps.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from prompt_tuning_jax.errors import UsageError, spelled
from prompt_tuning_jax.training.transfer.similarity import similarity
from prompt_tuning_jax.training.transfer.sources import Source, find_prompts
from prompt_tuning_jax.tuned_prompt import TunedPrompt

PREFIX = "nearest:"
MEASURE = "pooled"


class Nearest(NamedTuple):
    """A setting `nearest:FOLDER:COUNT`, read."""

    folder: str
    count: int = 1


class Start(NamedTuple):
    """Where a run starts.

    Attributes:
      values: of the prompt.
      record: what the prompt's file says of it, as JSON values.
    """

    values: Float[np.ndarray, "P D"]
    record: Mapping[str, Any]

    def initializer(self, key: jax.Array, shape: tuple[int, int]) -> Float[Array, "P D"]:
        """As `initializers` has them."""
        del key, shape
        return jnp.asarray(self.values)


def parse(spec: Any) -> Nearest | None:
    """What a setting of where a prompt starts says of nearest prompts; None where nothing.

    Raises:
      UsageError: no folder, or not the nearest 1, 2, ...
    """
    words = str(spec)
    if callable(spec) or not words.startswith(PREFIX):
        return None
    folder, count = words.removeprefix(PREFIX), 1
    if ends := re.fullmatch(r"(.+):(-?\d+)", folder):
        folder, count = ends[1], int(ends[2])
    if not folder or count < 1:
        raise UsageError(
            f"{spelled('prompt_init')} {words!r}: write nearest:FOLDER for the nearest prompt "
            "below a folder, or nearest:FOLDER:3 for a mean of the three nearest."
        )
    return Nearest(folder, count)


def check_apart(spec: Any, directory: str | os.PathLike[str]) -> None:
    """Refuses nearest prompts of a folder in which runs that are to be compared leave theirs.

    Args:
      spec: of where a prompt starts, see `parse`.
      directory: of those runs.
    """
    asked = parse(spec)
    if asked and Path(directory).resolve().is_relative_to(Path(asked.folder).resolve()):
        raise UsageError(
            f"{spelled('prompt_init')} {spec}: that folder holds {spelled('model_dir')} "
            f"{directory}, and runs would start at one another's prompts: choose another."
        )


def candidates(
    asked: Nearest,
    length: int,
    own: str | os.PathLike[str],
    check: Callable[[TunedPrompt], None],
) -> list[Source]:
    """The prompts below the folder at which this run could start.

    Args:
      length: P of the run's prompt.
      own: where the run and those beside it write, whose prompts are not taken.
      check: raises a ValueError for a prompt of another model.

    Raises:
      FileNotFoundError: there is no such folder, or no prompt below it.
      ValueError: none of them is of this model and length; or fewer than are asked for.
    """
    own = Path(own).resolve()
    found = [
        source
        for source in find_prompts(asked.folder).sources
        if not source.path.resolve().is_relative_to(own)
    ]
    of_model = [source for source in found if _passes(check, source.prompt)]
    where = f"{spelled('prompt_init')} nearest:{asked.folder}"
    if not of_model:
        raise ValueError(f"{where}: none of the {len(found)} prompts there is of this model.")
    fitting = [source for source in of_model if source.prompt.shape[0] == length]
    lengths = sorted({source.prompt.shape[0] for source in of_model})
    if not fitting:
        raise ValueError(
            f"{where}: the prompts of this model there have {', '.join(map(str, lengths))} rows: "
            f"set {spelled('prompt_length', lengths[0])}, it is {length}."
        )
    if len(fitting) < asked.count:
        raise ValueError(
            f"{where}: the mean of {asked.count} is asked for, but {len(fitting)} of the prompts "
            f"there are of this model and have {length} rows."
        )
    return fitting


def _passes(check: Callable[[TunedPrompt], None], prompt: TunedPrompt) -> bool:
    try:
        check(prompt)
    except ValueError:
        return False
    return True


def nearest_start(
    asked: Nearest, sources: Sequence[Source], embedding: Float[np.ndarray, "P D"], steps: int
) -> Start:
    """The weighted mean of the sources nearest to a task's embedding.

    Weights are the similarities, 0 where these are negative; where all are, the nearest counts
    alone.

    Args:
      steps: after which the embedding was taken.
    """
    scored = [(similarity(embedding, one.prompt.values, MEASURE), one) for one in sources]
    chosen = sorted(scored, key=lambda pair: -pair[0])[: asked.count]
    weights = np.maximum([score for score, _ in chosen], 0)
    if not weights.sum():
        weights = np.arange(len(chosen)) == 0
    shares = weights / weights.sum()
    pairs = list(zip(shares, chosen, strict=True))
    values = sum(share * one.prompt.values.astype(np.float64) for share, (_, one) in pairs)
    taken = [
        {
            "name": one.name,
            "path": str(one.path),
            "task": one.task,
            "similarity": round(score, 6),
            "weight": round(float(share), 6),
        }
        for share, (score, one) in pairs
    ]
    record = {"nearest": asked.folder, "measure": MEASURE, "probe_steps": steps, "prompts": taken}
    return Start(np.asarray(values, np.float32), record | {"compared": len(sources)})


def told(record: Mapping[str, Any]) -> str:
    """A record in one line of the log."""
    taken = ", ".join(
        f"{one['name']} (similarity {one['similarity']:.3f}, weight {one['weight']:.2f})"
        for one in record["prompts"]
    )
    return (
        f"starts at {taken}: nearest of {record['compared']} in {record['nearest']} to this task's "
        f"prompt after {record['probe_steps']} steps"
    )
