"""Many files to answer: each host takes its own, and a repeated command takes those that are left.

The answers to a file are those of `infer` for that file alone, in a file that appears once all of
them are there. A record beside them says what they were made with: what is answered anew after a
change would not go with what is there.
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
import numpy as np

from prompt_tuning_jax.banks import TunedBank
from prompt_tuning_jax.checkpoints.adapters.adapter import Adapter
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.data.records.digest import FilesDigest
from prompt_tuning_jax.devices import hosts
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.json_values import json_object, plain
from prompt_tuning_jax.settings.infer_config import InferConfig
from prompt_tuning_jax.settings.setting import PathLike, settings_of
from prompt_tuning_jax.tuned_prompt import TunedPrompt

RECORD = "infer.json"
# Settings that change no answer beyond rounding, and those of which the contents count.
_OTHERS = ("input_file", "output", "batch_size", "mesh", "model", "prompt", "adapter")


class Shard(NamedTuple):
    """A file to answer, and the file that its answers go to."""

    source: Path
    target: Path


def shards_of(config: InferConfig) -> list[Shard] | None:
    """The files of a folder, or those that a pattern such as data/*.jsonl names; None for one file.

    Raises:
      FileNotFoundError: there are none.
      ValueError: nothing says where the answers go, or two files' would have one name.
    """
    files = _files(config.input_file)
    if files is None:
        return None
    if config.output is None:
        raise ValueError(
            f"{spelled('input_file')} {config.input_file} is {len(files)} files: say with "
            f"{spelled('output')} which folder their answers go to."
        )
    folder = Path(config.output)
    shards = [Shard(file, folder / f"{file.stem}.jsonl") for file in files]
    by_target: dict[Path, Path] = {}
    for source, target in shards:
        if (other := by_target.setdefault(target, source)) != source:
            raise ValueError(f"The answers to {other} and {source} would both be {target}.")
        if target.name == RECORD or target.resolve() in {file.resolve() for file in files}:
            raise ValueError(f"The answers to {source} would be {target}: choose another folder.")
    return shards


def _files(input_file: PathLike | None) -> list[Path] | None:
    if input_file is None:
        return None
    path = Path(input_file)
    if path.is_dir():
        found = [one for one in path.iterdir() if one.is_file() and one.name[0] != "."]
    elif not path.exists() and glob.has_magic(os.fspath(input_file)):
        found = [Path(one) for one in glob.glob(os.fspath(input_file)) if Path(one).is_file()]
    else:
        return None
    if not found:
        raise FileNotFoundError(f"There are no files in {spelled('input_file')} {input_file}.")
    return sorted(found)


def left(shards: Sequence[Shard], identity: Mapping[str, Any]) -> Iterator[Shard]:
    """Those that this host is to answer; the largest first, so that all hosts end together.

    Args:
      identity: what the answers depend on, beside the files.

    Raises:
      ValueError: what is there was made with something else.
    """
    folder = shards[0].target.parent
    digest = FilesDigest([shard.source for shard in shards], "input")
    if (folder / RECORD).exists():
        _check(folder, identity, digest)
    elif there := [shard.target for shard in shards if shard.target.exists()]:
        raise ValueError(f"{there[0]} is there, and nothing says what of: choose another folder.")
    hosts.wait_for_all("read what is answered")
    if hosts.is_first() and not (folder / RECORD).exists():
        facts = {"made_with": identity, "inputs": digest.facts()}
        with new_file(folder / RECORD) as partial:
            partial.write_text(json.dumps(facts, indent=1) + "\n")
    rest = [shard for shard in shards if not shard.target.exists()]
    hosts.wait_for_all("know what is to answer")  # nobody has answered any before
    rest.sort(key=lambda shard: -shard.source.stat().st_size)
    own = rest[jax.process_index() :: jax.process_count()]
    if hosts.is_first():
        _say(f"{len(shards) - len(rest)} of {len(shards)} files are answered already.")
    for number, shard in enumerate(own, start=1):
        yield shard
        _say(f"{shard.target}: {number} of {len(own)}")


def identity_of(
    config: InferConfig,
    model: str,
    prompt: TunedPrompt | TunedBank | None,
    adapter: Adapter | None,
) -> dict[str, Any]:
    """What answers depend on, as JSON has it.

    Args:
      model: the frozen model's fingerprint.
    """
    made_with = {name: getattr(config, name) for name in settings_of(InferConfig)}
    made_with = {name: x for name, x in made_with.items() if name not in _OTHERS}
    bank = prompt.prompts if isinstance(prompt, TunedBank) else {"prompt": prompt}
    made_with["prompts"] = {name: one and _digest(one) for name, one in bank.items()}
    leaves = adapter and {name: np.asarray(x) for name, x in adapter.leaves.items()}
    made_with["adapter"] = leaves and fingerprint(leaves)
    made_with["model"] = model
    made_with["model_dtype"] = str(config.model_dtype)
    return plain(made_with)


def _digest(prompt: TunedPrompt) -> str:
    hashed = hashlib.sha256(prompt.values.tobytes())
    hashed.update(repr((prompt.shape, prompt.layout, prompt.visibility)).encode())
    return hashed.hexdigest()


def _check(folder: Path, identity: Mapping[str, Any], digest: FilesDigest) -> None:
    """Refuses, with a ValueError, to go on with what was made with something else."""
    record = folder / RECORD
    kept = json_object(record.read_bytes(), record, "Choose another folder.")
    before = kept.get("made_with", {})
    changed = [name for name in identity if identity[name] != before.get(name)]
    told = f"{spelled(changed[0])} was another" if changed else digest.difference(kept["inputs"])
    if told:
        raise ValueError(f"The answers in {folder} are of another call: {told}. Choose another.")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
