"""What a folder of prompts holds for a model, without reading the prompts' values."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, cast

from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.prompt_file import PromptHeader, read_header
from prompt_tuning_jax.checkpoints.prompt_folder import name_below, places
from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.serving.library.description import (
    Description,
    check_name,
    described,
    of_members,
)
from prompt_tuning_jax.serving.library.errors import Conflict
from prompt_tuning_jax.tuned_prompt import TunedPrompt

ENSEMBLE = ".ensemble.json"
_FILES = ("prompt.safetensors", "prompt.json", peft.CONFIG, peft.WEIGHTS)
_VERSIONS = itertools.count(1)
Signature = tuple[tuple[str, int, int, int], ...]


class Fit(NamedTuple):
    """Which prompts can be served: those of a model, up to a length.

    Attributes:
      allow_prompt_mismatch: whether they may be another model's of the same width.
    """

    model: FrozenModel
    max_prompt_length: int
    allow_prompt_mismatch: bool = False

    def check(self, prompt: TunedPrompt | PromptHeader) -> None:
        """Refuses, with a ValueError, a prompt of another model or one that is too long.

        And one that sees what there is nothing to see of where it stands in this model.
        """
        whole = cast(TunedPrompt, prompt)  # of which no more is looked at than a header has
        self.model.check(whole, self.allow_prompt_mismatch)
        self.model.config.visibility_in([prompt.layout], prompt.visibility)
        if prompt.shape[0] > self.max_prompt_length:
            raise ValueError(
                f"This prompt has {prompt.shape[0]} rows, and this server has room for "
                f"{self.max_prompt_length}."
            )


class Entry(NamedTuple):
    """A prompt of the folder.

    Attributes:
      signature: changes when its files do.
      version: a number that no other state of any prompt has.
    """

    path: Path
    signature: Signature
    version: int
    description: Description


@dataclasses.dataclass(frozen=True)
class Scan:
    """What is in a folder.

    Attributes:
      prompts, ensembles: by name.
      notes: a sentence for each thing that was left out.
    """

    prompts: dict[str, Entry]
    ensembles: dict[str, Description]
    notes: list[str]


def scan(folder: Path, fit: Fit, known: Mapping[str, Entry]) -> Scan:
    """The prompts that fit, and the ensembles of them.

    Args:
      known: of an earlier scan; what has not changed since is not read again.
    """
    prompts: dict[str, Entry] = {}
    notes: list[str] = []
    for path in sorted(places(folder)):
        name = name_below(folder, path)
        try:
            check_name(name)
            if name in prompts:
                raise ValueError(f"{prompts[name].path} has the same name, {name}.")
            prompts[name] = entry(name, path, folder, fit, known.get(name))
        except (ValueError, OSError) as error:
            notes.append(f"{path} is left out: {error}")
    ensembles: dict[str, Description] = {}
    for path in sorted(folder.glob(f"*{ENSEMBLE}")):
        name = path.name.removesuffix(ENSEMBLE)
        try:
            check_name(name, parts=1)
            if name in prompts:
                raise ValueError(f"{prompts[name].path} has the same name, {name}.")
            ensembles[name] = ensemble(name, _members(path), prompts, path.name)
        except (ValueError, OSError) as error:
            notes.append(f"{path} is left out: {error}")
    return Scan(prompts, ensembles, notes)


def entry(name: str, path: Path, folder: Path, fit: Fit, known: Entry | None = None) -> Entry:
    """The prompt at `path`, by what its files say of it.

    Raises:
      ValueError, OSError: it cannot be read, or does not fit.
    """
    signature = _signature(path)
    if known is not None and (known.path, known.signature) == (path, signature):
        return known
    header = read_header(path)
    fit.check(header)
    source = path.absolute().relative_to(folder.absolute()).as_posix()
    return Entry(path, signature, next(_VERSIONS), described(name, header, source))


def ensemble(
    name: str, members: Iterable[str], prompts: Mapping[str, Entry], source: str
) -> Description:
    """An ensemble of prompts that are there.

    Raises:
      ValueError: it names none, one twice or an unknown one, or they do not see alike.
    """
    members = list(members)
    if len(members) < 2 or len(set(members)) < len(members):
        raise ValueError("An ensemble has two members or more, each of them once.")
    if missing := [member for member in members if member not in prompts]:
        raise ValueError(f"There is no prompt {missing[0]!a} to be a member.")
    return _together(name, [prompts[member].description for member in members], source)


def with_member(
    member: Description, prompts: Mapping[str, Entry], ensembles: Mapping[str, Description]
) -> dict[str, Description]:
    """All ensembles, where this description is that of the prompt of its name.

    Raises:
      Conflict: one of them cannot have it.
    """
    made = dict(ensembles)
    for name, old in ensembles.items():
        if member.name not in old.members:
            continue
        found = [member if x == member.name else prompts[x].description for x in old.members]
        try:
            made[name] = _together(name, found, f"{name}{ENSEMBLE}")
        except ValueError as error:
            raise Conflict(
                f"{member.name} is a member of {name}, which cannot have this one: {error}"
            ) from error
    return made


def _together(name: str, found: list[Description], source: str) -> Description:
    if len(kinds := {one.visibility for one in found}) > 1:
        raise ValueError(
            f"The members of an ensemble see alike; these are {sorted(map(str, kinds))}."
        )
    return of_members(name, found, source)


def _members(path: Path) -> list[str]:
    remedy = 'It holds {"members": ["NAME", "NAME"]}: write it so, or delete it.'
    members = json_object(path.read_bytes(), path, remedy).get("members")
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        raise ValueError(f"{path} names no members. {remedy}")
    return members


def _signature(path: Path) -> Signature:
    """When its files were written, and what they are."""
    files = [str(path)]
    if path.is_dir():
        with os.scandir(str(path)) as inside:
            files = sorted(file.path for file in inside if file.name in _FILES)
    stats = ((file, os.stat(file)) for file in files)
    return tuple((file, x.st_mtime_ns, x.st_size, x.st_ino) for file, x in stats)
