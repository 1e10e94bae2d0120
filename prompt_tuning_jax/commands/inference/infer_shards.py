"""Many files to answer: each host takes its own, and a repeated command takes those that are left.

The answers to a file are those of `infer` for that file alone, in a file that appears once all of
them are there. A record beside them says what they were made with: what is answered after a change
would not go with what is there.
"""

import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from prompt_tuning_jax.banks import TunedBank
from prompt_tuning_jax.checkpoints.adapters.adapter import Adapter
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.data.records.digest import FilesDigest
from prompt_tuning_jax.devices import hosts
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.evaluation.retrieval.sides import digest_of
from prompt_tuning_jax.json_values import json_object, plain
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.settings.infer_config import InferConfig
from prompt_tuning_jax.settings.setting import PathLike, settings_of
from prompt_tuning_jax.tuned_prompt import TunedPrompt

RECORD = "infer.json"
# What the settings in `_OTHERS` lead to, as errors call it.
_CALLED = {
    "prompts": "the prompt or adapter",
    "vocabulary": "the vocabulary",
    "generation": "what the model's own files say of its answers",
    "verbalizers": "the words to choose from",
}
# Settings that change no answer beyond rounding, and those that stand for what is looked at itself.
_OTHERS = (
    *("input_file", "output", "batch_size", "mesh", "allow_prompt_mismatch"),
    *("model", "model_dtype", "vocabulary", "prompt", "prompts", "adapter"),
    *("verbalizers", "predictions"),
)


class Shard(NamedTuple):
    """A file to answer, and the file that its answers go to."""

    source: Path
    target: Path


def shards_of(config: InferConfig) -> list[Shard] | None:
    """The files of a folder, or those that a pattern such as data/*.jsonl names; None for one file.

    Raises:
      FileNotFoundError: there are none.
      ValueError: nothing says where the answers go, they would be among the files, or two files'
        would have one name.
      NotADirectoryError: a file is where they would go.
    """
    files = _files(config.input_file)
    if files is None:
        return None
    given = f"{spelled('input_file')} {config.input_file}"
    if config.output is None:
        raise ValueError(
            f"{given} is {len(files)} files: say with {spelled('output')} which folder their "
            "answers go to."
        )
    folder = Path(config.output)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{given} is {len(files)} files, and {spelled('output')} {folder} is a file: name a "
            "folder for their answers."
        )
    if folder.resolve() in {file.resolve().parent for file in files}:
        raise ValueError(f"The answers would be among the texts, in {folder}: name another folder.")
    shards = [Shard(file, folder / f"{file.stem}.jsonl") for file in files]
    by_target: dict[Path, Path] = {}
    for source, target in shards:
        if (other := by_target.setdefault(target, source)) != source:
            raise ValueError(
                f"The answers to {other} and {source} would both be {target}: give one of them "
                "another name, or answer them in two calls."
            )
    return shards


def _files(input_file: PathLike | None) -> list[Path] | None:
    if input_file is None:
        return None
    path = Path(input_file)
    if path.is_dir():
        found = [one for one in path.iterdir() if one.is_file() and one.name[0] != "."]
    elif not path.exists() and glob.has_magic(os.fspath(input_file)):
        named = glob.glob(os.fspath(input_file), recursive=True)
        found = [Path(one) for one in named if Path(one).is_file()]
    else:
        return None
    if not found:
        raise FileNotFoundError(f"There are no files in {spelled('input_file')} {input_file}.")
    return sorted(found)


def left(shards: Sequence[Shard], identity: Mapping[str, Any]) -> Iterator[Shard]:
    """Those of this host's share that are not answered; it returns when all hosts are done.

    Args:
      identity: what the answers depend on, beside the files.

    Raises:
      ValueError: what is there was made with something else.
    """
    folder = shards[0].target.parent
    _check(folder, shards, identity)
    hosts.wait_for_all("read what is answered")
    if hosts.is_first():
        _write_record(folder, shards, identity)
    hosts.wait_for_all("know what is to answer")  # nobody has answered any before
    own = shards[jax.process_index() :: jax.process_count()]
    rest = [shard for shard in own if not shard.target.exists()]
    if len(rest) < len(own):
        _say(f"{len(own) - len(rest)} of {len(own)} files are answered already.")
    for number, shard in enumerate(rest, start=1):
        yield shard
        _say(f"{shard.target}: {number} of {len(rest)}")
    hosts.wait_long_for_all("answered all")


def identity_of(
    config: InferConfig,
    model: FrozenModel,
    known: Sequence[TunedPrompt | TunedBank | Adapter | None],
    legal: Mapping[str | None, Any],
    generation: Mapping[str, Any],
) -> dict[str, Any]:
    """What answers depend on, as JSON has it.

    Args:
      config: with what is not given as the prompts' files record it.
      model: the frozen model.
      known: what was tuned.
      legal: the answers to rank, of each prompt.
      generation: what texts are generated by, where they are.
    """
    made_with = {name: getattr(config, name) for name in settings_of(InferConfig)}
    made_with = {name: x for name, x in made_with.items() if name not in _OTHERS}
    made_with |= {
        "model": model.fingerprint,
        "model_dtype": jnp.dtype(config.model_dtype).name,
        "vocabulary": model.text_vocabulary("infer").fingerprint,
        "generation": repr(sorted(generation.items())),
        "prompts": [_digests(one) for one in known],
        "verbalizers": [[name, words] for name, words in legal.items()],
    }
    return plain(made_with)


def _digests(tuned: TunedPrompt | TunedBank | Adapter | None) -> Any:
    """What tells it from others, the facts beside its values included."""
    if tuned is None:
        return None
    if isinstance(tuned, TunedBank):
        return {name: _digests(prompt) for name, prompt in tuned.prompts.items()}
    if isinstance(tuned, Adapter):
        hashed = hashlib.sha256(tuned.method.encode())
        for name, x in sorted(tuned.leaves.items()):
            hashed.update(f"{name} {x.shape}".encode() + x.tobytes())
    else:
        hashed = hashlib.sha256(digest_of(tuned).encode())
    hashed.update(json.dumps(plain(tuned.metadata), sort_keys=True).encode())
    return hashed.hexdigest()


def _check(folder: Path, shards: Sequence[Shard], identity: Mapping[str, Any]) -> None:
    """Refuses, with a ValueError, to go on with what was made with something else."""
    answered = [shard for shard in shards if shard.target.exists()]
    kept = _record(folder)
    if kept is None:
        if answered:
            there = answered[0].target
            raise ValueError(f"{there} is there, and nothing says what of. {_remedy()}")
        return
    before, inputs = kept["made_with"], kept["inputs"]
    changed = [name for name in identity if identity[name] != before.get(name)]
    told = f"{_CALLED.get(changed[0]) or spelled(changed[0])} was another" if changed else None
    for source, target in answered:
        known = inputs.get(target.name)
        if known is None or known["source"] != source.name:
            told = told or f"{target.name} is not of {source}"
        told = told or FilesDigest([source], "input").difference([known])
    if told:
        raise ValueError(f"The answers in {folder} are of another call: {told}. {_remedy()}")


def _record(folder: Path) -> dict[str, Any] | None:
    """What is kept there; None where there is nothing.

    Raises:
      ValueError: it is damaged.
    """
    record = folder / RECORD
    if not record.exists():
        return None
    kept = json_object(record.read_bytes(), record, _remedy())
    if not all(isinstance(kept.get(name), dict) for name in ("made_with", "inputs")):
        raise ValueError(f"{record} is damaged. {_remedy()}")
    return kept


def _write_record(folder: Path, shards: Sequence[Shard], identity: Mapping[str, Any]) -> None:
    """Of files that are answered already what was written before, and of others as they are."""
    kept = _record(folder) or {"inputs": {}}
    inputs = dict(kept["inputs"])
    for source, target in shards:
        if not target.exists():
            (facts,) = FilesDigest([source], "input").facts()
            inputs[target.name] = {"source": source.name, **facts}
    with new_file(folder / RECORD) as partial:
        partial.write_text(json.dumps({"made_with": identity, "inputs": inputs}, indent=1) + "\n")


def _remedy() -> str:
    return f"Name another folder with {spelled('output')}, or delete this one."


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
