"""A tuned prompt on disk: `prompt.safetensors` and, for people to read, `prompt.json`.

A prompt is of use only with the model it was tuned for, so the file says which that is.
"""

import contextlib
import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from prompt_tuning_jax import __version__
from prompt_tuning_jax.banks import TunedBank
from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.array_files import read_npy, read_tensor
from prompt_tuning_jax.checkpoints.atomic import new_file, save_tensors
from prompt_tuning_jax.checkpoints.prompt_facts import checked_facts
from prompt_tuning_jax.checkpoints.t5x.checkpoint import (
    is_checkpoint,
    open_checkpoint,
    read_prompt,
)
from prompt_tuning_jax.data.templates import label_text
from prompt_tuning_jax.json_values import json_object, plain
from prompt_tuning_jax.tuned_prompt import (
    FINGERPRINT,
    VOCABULARY,
    TunedPrompt,
    check_use,
    checked_values,
)

PREBUILT = Path(__file__).parents[1] / "bundled" / "prompts"
SNAPSHOTS = "prompts"  # the directory of the prompts that a run keeps, one for each step
_VALUES = "prompt.safetensors"
_METADATA = "prompt.json"
_TENSOR = "prompt"
_CHECKSUM = "values_sha256"


class PromptHeader(NamedTuple):
    """A prompt without its values: what else a `TunedPrompt` has."""

    shape: tuple[int, int]
    layout: str
    visibility: str
    metadata: dict[str, Any]


def save_prompt(
    path: str | os.PathLike,
    prompt: Any,
    *,
    layout: str | None = None,
    visibility: str | None = None,
    base_model: str | None = None,
    fingerprint: str | None = None,
    vocabulary_hash: str | None = None,
    **metadata: Any,
) -> Path:
    """Writes a prompt into the directory `path`, or as a bare array to a path ending in `.npy`.

        pt.save_prompt("prompts/sentiment", values, task="sentiment", scores={"accuracy": 0.91})

    Each file is replaced whole: a kill leaves the old prompt or the new one.

    Args:
      prompt: a `TunedPrompt`, whose metadata is kept, or an array [P, D].
      layout: where the rows stand; by default the prompt's own, else "prefix".
      visibility: what they may attend to; by default the prompt's own, else "full".
      base_model, fingerprint, vocabulary_hash: the frozen model's name and
        `checkpoints.fingerprint`, and its vocabulary's `fingerprint`; checked at loading.
      metadata: whatever else JSON can hold: task, verbalizers, step, scores.

    Returns:
      The path written.

    Raises:
      ValueError: the values are not a finite [P, D] array; metadata is not JSON, or is of those
        facts that the file states itself; no such layout or visibility.
    """
    path = Path(path)
    tuned = prompt if isinstance(prompt, TunedPrompt) else TunedPrompt(np.asarray(prompt))
    use = {"layout": layout or tuned.layout, "visibility": visibility or tuned.visibility}
    tuned = replace(tuned, **use)
    if path.suffix == ".npy":
        with new_file(path) as partial, open(partial, "wb") as file:
            np.save(file, tuned.values, allow_pickle=False)
        return path
    given = {"base_model": base_model, FINGERPRINT: fingerprint, VOCABULARY: vocabulary_hash}
    given = {key: value for key, value in (given | metadata).items() if value is not None}
    own = _own_facts(tuned)
    if taken := sorted(own.keys() & metadata.keys()):
        raise ValueError(f"A prompt's file states {', '.join(taken)} itself: leave it out.")
    facts = {**tuned.metadata, **given, **own}
    text = _as_json(facts)
    checked_facts(json.loads(text), "A prompt's metadata", "Give it so, or leave it out.")
    # The tensor file carries the facts too. It is written first and is whole by itself; the
    # checksum shows that a JSON file is left over from an earlier prompt.
    with new_file(path / _VALUES) as partial:
        save_tensors({_TENSOR: tuned.values}, partial, {_TENSOR: text})
    with new_file(path / _METADATA) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def load_prompt(path: str | os.PathLike) -> TunedPrompt:
    """Reads a prompt from wherever one may be: a prompt file, PEFT, T5X, an array.

        prompt = pt.load_prompt("prompts/sentiment")
        prompt = pt.load_prompt("bundled_topic")  # one of those that come with the bundled model

    Args:
      path: a directory that `save_prompt` wrote, or its `prompt.safetensors`; the directory of a
        PEFT adapter (see `checkpoints.peft`); a T5X checkpoint that holds a prompt; an array
        file (`.npy` or of any name, or a `numpy_checkpoint` directory of one, as the reference
        implementation writes them); or, where nothing is at this path, the name of a pre-built
        prompt, one of `prebuilt_names()`.

    Raises:
      FileNotFoundError: nothing there, or a directory without a prompt.
      ValueError: the file is corrupt, cut short, not [P, D], or holds NaN; or a PEFT adapter of
        another kind.
    """
    own = Path(path, _VALUES)
    if own.is_file():  # as of most prompts: to rule the other kinds out takes as long as to read it
        return _read_own(own)
    if is_checkpoint(path):
        return _from_checkpoint(path)
    path = _place(Path(path))
    if path.name == peft.WEIGHTS:
        path = path.parent
    if peft.is_adapter(path) and not (path / _VALUES).is_file():
        values, facts = peft.read_adapter(path)
        return TunedPrompt(checked_values(values, str(path)), metadata=facts)
    if path.is_dir():
        path = _file_in(path)
    with open(path, "rb") as file:
        if file.read(6) == b"\x93NUMPY":
            return TunedPrompt(checked_values(read_npy(path), str(path)))
    return _read_own(path)


def _read_own(path: Path) -> TunedPrompt:
    """What `save_prompt` wrote, or a safetensors file with values alone."""
    values, header = _read_safetensors(path)
    facts = _facts(path, values, header)
    use = facts.pop("layout", "prefix"), facts.pop("visibility", "full")
    return TunedPrompt(values, use[0], facts, use[1])


def read_header(path: str | os.PathLike) -> PromptHeader:
    """What `load_prompt` of a local path would read, but for the values where that saves time.

    A directory that `save_prompt` wrote, or its `prompt.safetensors`, is only opened; whether its
    values are finite and have their checksum shows when it is loaded.

    Raises:
      FileNotFoundError, ValueError: as `load_prompt`.
    """
    path = Path(path)
    file = path / _VALUES if path.is_dir() else path
    if file.name != _VALUES or not file.is_file():
        prompt = load_prompt(path)
        return PromptHeader(prompt.shape, prompt.layout, prompt.visibility, dict(prompt.metadata))
    with _opened(file) as tensors:
        shape = tuple(tensors.get_slice(_TENSOR).get_shape())
        header = (tensors.metadata() or {}).get(_TENSOR)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"A prompt is [length, width]; {file} is {list(shape)}.")
    found = [checked_facts(json_object(t, s, r), s, r) for s, t, r in _written(file, header)]
    # The header was written together with the values: a JSON file that differs is left over.
    own = found[-1].get(_CHECKSUM) if header is not None else None
    facts = next((x for x in found if own is None or x.get(_CHECKSUM, own) == own), {})
    use = facts.pop("layout", "prefix"), facts.pop("visibility", "full")
    check_use(*use)
    return PromptHeader(shape, *use, facts)


def load_bank(
    paths: Mapping[str, str | os.PathLike] | Sequence[str | os.PathLike],
) -> TunedBank:
    """Reads prompts, by name or in a list; see `load_prompt`.

    A prompt of a list is called by its file's own name, or, for a run's `best` or `last`, by the
    run's.

    Raises:
      FileNotFoundError: there is no prompt at a path.
      ValueError: two prompts of a list have the same name; a file is corrupt.
    """
    return TunedBank({name: load_prompt(path) for name, path in named(paths).items()})


def named(
    paths: Mapping[str, str | os.PathLike] | Sequence[str | os.PathLike],
) -> dict[str, str | os.PathLike]:
    """The paths by the names that `load_bank` gives them."""
    if isinstance(paths, Mapping):
        return {label_text(name): _path(path) for name, path in paths.items()}
    if isinstance(paths, str | os.PathLike) or not isinstance(paths, Sequence):
        raise ValueError(f"Expected several prompts, by name or in a list, got {str(paths)!r}.")
    result: dict[str, str | os.PathLike] = {}
    for path in paths:
        parts = Path(_path(path)).absolute().parts
        name = parts[-2] if len(parts) > 1 and parts[-1] in ("best", "last") else parts[-1]
        if name in result:
            raise ValueError(
                f"Two prompts are called {name!r}: {result[name]} and {path}; name them, as in "
                "{'a': ..., 'b': ...}."
            )
        result[name] = path
    return result


def _path(path: Any) -> str | os.PathLike:
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"A prompt is named by its path or a pre-built one's name, not {path!r}.")
    return path


def prebuilt_names() -> list[str]:
    """The prompts that come with the bundled model; `load_prompt` takes their names."""
    return sorted(path.parent.name for path in PREBUILT.glob(f"*/{_VALUES}"))


def _from_checkpoint(path: str | os.PathLike) -> TunedPrompt:
    """The prompt in a T5X checkpoint, tuned for the other weights there."""
    checkpoint = open_checkpoint(path)
    values = checked_values(read_prompt(checkpoint.path), checkpoint.path)
    facts = {"base_model": checkpoint.path}
    if checkpoint.step is not None:
        facts["step"] = checkpoint.step
    return TunedPrompt(values, metadata=facts)


def _place(path: Path) -> Path:
    """`path`, or the pre-built prompt of this name."""
    if path.exists():
        return path
    bare_name = path.name == str(path) and not path.suffix
    names = prebuilt_names() if bare_name else []
    if path.name in names:
        return PREBUILT / path
    nearest = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else "."
    known = f" The pre-built ones are {', '.join(names)}." if names else ""
    raise FileNotFoundError(f"There is no prompt at {path}{hint}{known}")


def _file_in(directory: Path) -> Path:
    """The prompt in a directory; the reference calls it `encoder.prompt.prompt.prompt`."""
    if (directory / _VALUES).is_file():
        return directory / _VALUES
    arrays = [*directory.glob("*.prompt"), *directory.glob("*.prompt.npy")]
    if len(arrays) == 1:
        return arrays[0]
    best = directory / "best"
    is_run = (best / _VALUES).is_file()
    hint = f"; did you mean {best}?" if is_run else ": pass a prompt's directory or file."
    raise FileNotFoundError(f"{directory} has no {_VALUES}{hint}")


def _own_facts(prompt: TunedPrompt) -> dict[str, Any]:
    """What a prompt's file says about the file itself."""
    return {
        "prompt_length": prompt.shape[0],
        "emb_dim": prompt.shape[1],
        "layout": prompt.layout,
        "visibility": prompt.visibility,
        "library_version": __version__,
        _CHECKSUM: _checksum(prompt.values),
    }


def _checksum(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def _as_json(facts: Mapping[str, Any]) -> str:
    try:
        return json.dumps(plain(facts), indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"A prompt's metadata must be JSON values: {error}") from error


def _read_safetensors(path: Path) -> tuple[np.ndarray, str | None]:
    """The prompt's values, and the facts that its header carries as JSON."""
    with _opened(path) as file:
        values = read_tensor(file, _TENSOR, path)
        header = (file.metadata() or {}).get(_TENSOR)
    return checked_values(values, str(path)), header


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file that holds a prompt's tensor, or a ValueError."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = sorted(file.keys())
            if _TENSOR not in names:
                raise ValueError(f"{path} holds {names}, not a tensor named {_TENSOR!r}.")
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is neither a safetensors nor a .npy file, or is cut short ({error})."
        ) from error


def _facts(path: Path, values: np.ndarray, header: str | None) -> dict[str, Any]:
    """What is written about these values: in `prompt.json`, or else in the header."""
    texts, checksum = _written(path, header), _checksum(values)
    for source, text, remedy in texts:
        facts = checked_facts(json_object(text, source, remedy), source, remedy)
        if facts.get(_CHECKSUM, checksum) == checksum:
            return facts
    if texts:
        raise ValueError(f"{path} is corrupt: its values do not have the checksum written with it.")
    return {}


def _written(path: Path, header: str | None) -> list[tuple[Any, str | bytes, str]]:
    """(where, the JSON there, the remedy if it is none), the JSON file first."""
    sidecar = path.with_name(_METADATA)
    texts: list[tuple[Any, str | bytes, str]] = []
    if path.name == _VALUES and sidecar.is_file():
        remedy = f"Delete it: {_VALUES} holds a copy of it."
        texts.append((sidecar, sidecar.read_bytes(), remedy))
    if header is not None:
        texts.append((f"The header of {path}", header, "Copy the file again."))
    return texts
