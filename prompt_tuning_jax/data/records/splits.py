"""Which file of a directory is which split, by the names that people and `datasets` give them."""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_tuning_jax.data.records.record_file import FORMATS
from prompt_tuning_jax.errors import spelled

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
SHOWN = 8  # unused files that are named
# As `datasets` numbers the parts of a split.
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?")

Files = tuple[Path, ...]
"""The one file of a split, or its shards in order."""


def find_splits(
    directory: str | os.PathLike[str], given: Mapping[str, Any] | None = None
) -> dict[str, Files]:
    """The files of each split in a directory, or in its folder `data`.

    A file is a split's where it has its name (`train.csv`, `DEV.tsv`); where none has, a file whose
    name holds that word and no other split's (`sst2-train.csv`, `validation_matched.jsonl`). What
    is not used is named in a warning.

    Args:
      given: split -> the path of its file, for those that are not looked for.

    Raises:
      FileNotFoundError: there is no such directory, or no split in it.
      ValueError: two files may be one split, or a shard is missing.
    """
    directory, given = Path(directory), given or {}
    if not directory.is_dir():
        raise FileNotFoundError(f"There is no directory {directory}: check the path.")
    for folder in (directory, directory / "data"):
        files = _visible_files(folder)
        data = [file for file in files if file.suffix.lower() in FORMATS]
        if found := _splits_among(data, [name for name in SPLIT_NAMES if name not in given]):
            _say_what_is_read(folder, files, found, set(map(Path, given.values())))
            return found
    if given:
        return {}
    held = ", ".join(file.name for file in _visible_files(directory)[:SHOWN])
    raise FileNotFoundError(
        f"{directory} holds no train, validation (valid, val, dev, eval) or test file ending in "
        f"{', '.join(FORMATS)}{f'; it holds {held}' if held else ''}."
    )


def _visible_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))


def _splits_among(files: Sequence[Path], splits: Sequence[str]) -> dict[str, Files]:
    by_name: dict[str, list[Path]] = {}
    for file in files:
        by_name.setdefault(_without_shard(file) + file.suffix, []).append(file)
    sets = {name: _whole(shards) for name, shards in by_name.items()}
    found = {}
    for split in splits:
        named = [name for name in sets if Path(name).stem.lower() in SPLIT_NAMES[split]]
        candidates = named or [name for name in sets if splits_named_in(Path(name).stem) == {split}]
        if len(candidates) > 1:
            folder, option = files[0].parent, spelled(f"{split}_file")
            raise ValueError(
                f"{folder} holds {' and '.join(candidates)}, which may both be the {split} split: "
                f"name the one to use with {option}."
            )
        if candidates:
            found[split] = sets[candidates[0]]
    return found


def splits_named_in(stem: str) -> set[str]:
    """The splits whose names are among the words of a file's name."""
    words = set(re.split(r"[^a-z]+", stem.lower()))
    return {split for split, names in SPLIT_NAMES.items() if words & set(names)}


def _without_shard(file: Path) -> str:
    found = _SHARD.fullmatch(file.stem)
    return found[1] if found else file.stem


def _whole(shards: Sequence[Path]) -> Files:
    """A file, or all of its shards.

    Raises:
      ValueError: some are missing, or they do not belong together.
    """
    found = [_SHARD.fullmatch(shard.stem) for shard in shards]
    parts = [(int(each[2]), int(each[3])) for each in found if each is not None]
    totals = {total for _, total in parts}
    is_mixed = len(totals) > 1 or len(set(parts)) < len(parts)
    if len(shards) > 1 and (is_mixed or len(parts) < len(shards)):
        listed = " and ".join(shard.name for shard in shards[:SHOWN])
        more = f" and {len(shards) - SHOWN} more" if len(shards) > SHOWN else ""
        raise ValueError(
            f"{shards[0].parent} holds {listed}{more}: which of them are one whole? Move what is "
            "not to be used away."
        )
    for total in totals:
        if absent := set(range(total)) - {number for number, _ in parts}:
            raise ValueError(
                f"{shards[0].parent} holds {len(parts)} of the {total} parts of "
                f"{_without_shard(shards[0])!r}: part {min(absent):05d} is missing."
            )
        if len(parts) > total:
            raise ValueError(
                f"{shards[0].parent} holds {max(shards).name}, but its {total} parts are numbered "
                "from 00000 on."
            )
    return tuple(shards)


def _say_what_is_read(
    folder: Path, files: Sequence[Path], found: Mapping[str, Files], given: set[Path]
) -> None:
    """A warning of files that are not used, and of those that have more than a split's name."""
    used = {file for shards in found.values() for file in shards}
    unused = [file.name for file in files if file not in used | given]
    plain = {name for names in SPLIT_NAMES.values() for name in names}
    if not unused and all(_without_shard(file).lower() in plain for file in used):
        return
    read = ", ".join(f"{split} is {shards[0].name}" for split, shards in found.items())
    more = f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else ""
    listed = f"; not used: {', '.join(unused[:SHOWN])}{more}" if unused else ""
    warnings.warn(f"{folder}: {read}{listed}", stacklevel=2)
