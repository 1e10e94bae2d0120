"""How near prompts are to each other (SPoT: Vu et al. 2022, section 4.1).

import prompt_tuning_jax as pt
found = pt.similar("runs", task="sst2", step=1000)   # tasks, by their prompts after 1000 steps
found.ranking[0].name                                # the nearest of them

A prompt is where training ends on a task, so near prompts stand for near tasks; a prompt after few
steps is a task's embedding. Only prompts of one model are compared: elsewhere a number means
something else.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.settings.setting import PathLike
from prompt_tuning_jax.training.transfer.sources import Source, find_prompts
from prompt_tuning_jax.tuned_prompt import TunedPrompt

MEASURES = ("pooled", "tokens")


def similarity(
    one: Float[np.ndarray, "P D"], other: Float[np.ndarray, "Q D"], measure: str = "pooled"
) -> float:
    """The cosine of two prompts, in -1..1; they may differ in length.

    Args:
      measure: "pooled", the cosine of the means of their rows; or "tokens", the mean of the cosines
        of all pairs of rows, one from each.

    Raises:
      ValueError: no such measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"{spelled('measure')} is one of {', '.join(MEASURES)}, not {measure!r}.")
    return float(np.vdot(_direction(one, measure), _direction(other, measure)))


def _direction(values: Float[np.ndarray, "P D"], measure: str) -> Float[np.ndarray, " D"]:
    """What two prompts are multiplied by: the mean of all pairs' cosines is that of two means."""
    rows = values.astype(np.float64)
    if measure == "pooled":
        return _unit(rows.mean(axis=0))
    return _unit(rows).mean(axis=0)


def _unit(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(norm == 0, 1, norm)


class Ranked(NamedTuple):
    """A prompt by its similarity to what was asked for; `task` is None where it is not known."""

    name: str
    task: str | None
    similarity: float


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Prompts of one model, all against all.

    Attributes:
      model: its name, as the first prompt's file has it; None where none says.
      names, tasks: of the prompts, so ordered that near ones stand together.
      similarity: [n, n].
    """

    model: str | None
    names: tuple[str, ...]
    tasks: tuple[str | None, ...]
    similarity: Float[np.ndarray, "n n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Similarities:
    """What `similar` found.

    Attributes:
      measure: as `similarity` takes it.
      groups: a model's prompts each, the largest group first.
      given: the names of the prompts that were asked for; empty where none were.
      ranking: the others of their group, the nearest first.
      notes: what was left out, in words.
    """

    measure: str
    groups: tuple[Group, ...]
    given: tuple[str, ...]
    ranking: tuple[Ranked, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        groups = [
            {
                "model": group.model,
                "names": list(group.names),
                "tasks": list(group.tasks),
                "similarity": group.similarity.tolist(),
            }
            for group in self.groups
        ]
        ranking = [ranked._asdict() for ranked in self.ranking]
        told = {"given": list(self.given), "ranking": ranking, "notes": list(self.notes)}
        return {"measure": self.measure, "groups": groups, **told}


def similar(
    folder: PathLike,
    *,
    prompt: PathLike | None = None,
    task: str | None = None,
    step: int | None = None,
    measure: str = "pooled",
) -> Similarities:
    """Compares the prompts below a folder, all with all or with those that are given.

    Args:
      folder: see `find_prompts`; of a run, the best prompt counts.
      prompt: one to compare the others with; see `load_prompt`.
      task: compare with the prompts of this task; of several, the mean similarity counts.
      step: of runs, the prompts that they kept at this step rather than the best.
      measure: see `similarity`.

    Raises:
      FileNotFoundError: no such folder or prompt, or a folder without prompts.
      ValueError: both a prompt and a task; a task that has no prompt there; nothing to compare.
    """
    if prompt is not None and task is not None:
        raise ValueError(f"Give either {spelled('prompt')} or {spelled('task')}, or neither.")
    sources, notes = find_prompts(folder, step)
    given: list[Source] = []
    if task is not None:
        given = of_task(sources, task, folder)
    elif prompt is not None:
        one = Source(str(prompt), Path(prompt), load_prompt(prompt))
        values = one.prompt.values
        same = [source for source in sources if np.array_equal(source.prompt.values, values)]
        given = same or [one]
        sources = sources if same else [one, *sources]
    kinds: dict[Any, list[Source]] = {}
    for source in sources:
        kinds.setdefault(kind_of(source.prompt), []).append(source)
    chosen = sorted(kinds.values(), key=len, reverse=True)
    ranking: tuple[Ranked, ...] = ()
    if given:
        chosen = [kinds[kind] for kind in dict.fromkeys(kind_of(one.prompt) for one in given)]
        ranking = ranked(given, [one for kind in chosen for one in kind], measure)
        if not ranking:
            raise ValueError(_alone(given, len(sources)))
        if left_out := len(sources) - sum(map(len, chosen)):
            notes.append(f"{left_out} prompts of other models are not compared.")
    groups = tuple(_group(each, measure) for each in chosen)
    names = tuple(one.name for one in given)
    return Similarities(measure, groups, names, ranking, tuple(notes))


def of_task(sources: Sequence[Source], task: str, folder: PathLike) -> list[Source]:
    """Those of a task; a ValueError says which tasks there are where there is none."""
    found = [source for source in sources if source.task == task]
    if not found:
        known = ", ".join(sorted({source.task for source in sources if source.task})) or "none"
        raise ValueError(f"No prompt below {folder} says that it is of {task!r}; tasks: {known}.")
    return found


def kind_of(prompt: TunedPrompt) -> tuple[Any, ...]:
    """What prompts must have in common to be compared: the model, and the width.

    The model is known by its weights, or else by what a file calls it.
    """
    model: tuple[Any, ...] = (prompt.base_fingerprint,)
    if prompt.base_fingerprint is None:
        model = tuple(prompt.metadata.get(name) for name in ("base_model", "peft_task_type"))
    return *model, prompt.shape[1]


def ranked(given: Sequence[Source], sources: Sequence[Source], measure: str) -> tuple[Ranked, ...]:
    """Sources by their mean similarity to those `given` of their kind, which are left out."""
    found = []
    for source in sources:
        if any(source is one for one in given):
            continue
        alike = [one for one in given if kind_of(one.prompt) == kind_of(source.prompt)]
        values = [similarity(one.prompt.values, source.prompt.values, measure) for one in alike]
        found.append(Ranked(source.name, source.task, float(np.mean(values))))
    return tuple(sorted(found, key=lambda one: -one.similarity))


def _alone(given: Sequence[Source], count: int) -> str:
    if count == len(given):
        return f"{', '.join(one.name for one in given)}: there is nothing else to compare with."
    prompt = given[0].prompt
    model = prompt.metadata.get("base_model")
    if prompt.base_fingerprint is not None:
        return f"{given[0].name} is of {model or 'a model'}, and the other prompts are of others."
    told = f"names {model}, but not its weights" if model else "does not say which model it is of"
    return (
        f"{given[0].name} {told}, and the other prompts are of others: `prompt-tuning import` "
        "writes it as a prompt of a model."
    )


def _group(sources: Sequence[Source], measure: str) -> Group:
    directions = np.stack([_direction(one.prompt.values, measure) for one in sources])
    matrix = directions @ directions.T
    order = _near_ones_together(matrix)
    some = [sources[i] for i in order]
    return Group(
        some[0].prompt.metadata.get("base_model"),
        tuple(one.name for one in some),
        tuple(one.task for one in some),
        matrix[np.ix_(order, order)],
    )


def _near_ones_together(matrix: Float[np.ndarray, "n n"]) -> list[int]:
    """The order of a hierarchical clustering's leaves."""
    if len(matrix) < 3:
        return list(range(len(matrix)))
    distance = np.maximum(1 - (matrix + matrix.T) / 2, 0)
    np.fill_diagonal(distance, 0)
    small = len(matrix) < 200  # the best of the orders takes the cube of it
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=small)
    return [int(i) for i in leaves_list(tree)]
