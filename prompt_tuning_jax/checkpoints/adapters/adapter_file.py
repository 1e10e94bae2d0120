"""An adapter's directory: PEFT's two files where PEFT can hold it, else ours; and `adapter.json`.

    adapter_config.json  adapter_model.safetensors      as `PeftModel.from_pretrained` loads them
    adapter.safetensors                                 leaves by our names, of other methods
    adapter.json                                        the method, the base model, the task

`adapter.json` says what `prompt.json` says of a prompt. A directory that PEFT wrote has none.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.adapters import peft_prefix, peft_tensors
from prompt_tuning_jax.checkpoints.adapters.adapter import WHOLE, Adapter
from prompt_tuning_jax.checkpoints.array_files import read_tensors
from prompt_tuning_jax.checkpoints.atomic import new_file, save_tensors
from prompt_tuning_jax.checkpoints.huggingface import directory_of
from prompt_tuning_jax.checkpoints.prompt_facts import checked_facts
from prompt_tuning_jax.json_values import json_object, plain
from prompt_tuning_jax.methods.adapters.choice import NAMES
from prompt_tuning_jax.models.embedding import EmbeddingConfig
from prompt_tuning_jax.models.family import NetworkConfig

Config = NetworkConfig | EmbeddingConfig
FACTS = "adapter.json"
WEIGHTS = "adapter.safetensors"
_FETCH = "Fetch it again."
# PEFT's kinds -> our methods, the reader and the writer of each.
_KINDS = {"LORA": "lora", "IA3": "ia3", "PREFIX_TUNING": "prefix"}
_READERS = {
    "lora": peft_tensors.read_lora,
    "ia3": peft_tensors.read_ia3,
    "prefix": peft_prefix.read_prefix,
}
_WRITERS = {
    "lora": peft_tensors.write_lora,
    "ia3": peft_tensors.write_ia3,
    "prefix": peft_prefix.write_prefix,
}


def save_adapter(
    directory: str | os.PathLike, adapter: Adapter, config: Config, base_model: str
) -> Path:
    """Writes an adapter, in PEFT's form where that can hold it.

    Each file is replaced whole; the one that says which model it is of comes last.

    Args:
      config: of the network that it changes, or of the embedding model that has it.
      base_model: the network's name: a directory, or a name on the hub or of a bundled model.
    """
    directory = Path(directory)
    facts = {**adapter.metadata, "method": adapter.method, "base_model": base_model}
    write = _WRITERS.get(adapter.method, lambda *_: None)
    peft_form = write(config, adapter.leaves)
    for name in (peft.CONFIG, peft.WEIGHTS) if peft_form is None else (WEIGHTS,):
        (directory / name).unlink(missing_ok=True)  # of an adapter of the other form
    if peft_form is None:
        with new_file(directory / WEIGHTS) as partial:
            save_tensors(dict(adapter.leaves), partial, {"format": "numpy"})
    else:
        settings, tensors = peft_form
        settings |= {
            "base_model_name_or_path": str(directory_of(base_model)),
            "inference_mode": True,
            "task_type": _task_of(config),
        }
        with new_file(directory / peft.WEIGHTS) as partial:
            save_tensors(tensors, partial, {"format": "pt"})
        _write_json(directory / peft.CONFIG, settings)
    _write_json(directory / FACTS, facts)
    return directory


def is_adapter(directory: str | os.PathLike) -> bool:
    """Whether a directory holds an adapter, ours or PEFT's; a prompt of PEFT's is none."""
    directory = Path(directory)
    if (directory / FACTS).is_file():
        return True
    if not (directory / peft.CONFIG).is_file():
        return False
    return _settings(directory).get("peft_type") in _KINDS


def load_adapter(directory: str | os.PathLike, config: Config) -> Adapter:
    """Reads an adapter for a model of this config; see `save_adapter`.

    Raises:
      FileNotFoundError: no such directory, or one without an adapter.
      ValueError: a file is corrupt, or of a kind or for a network that is not this one's.
    """
    directory = Path(directory)
    facts = _facts(directory)
    if (directory / WEIGHTS).is_file():
        leaves = _tensors(directory / WEIGHTS)
        return Adapter(_method(directory, facts), leaves, facts)
    settings = _settings(directory)
    kind, task = settings.get("peft_type"), _task_of(config)
    if kind not in _KINDS:
        raise ValueError(
            f"{directory} is a PEFT adapter of type {kind}; read as adapters are "
            f"{', '.join(_KINDS)}. A prompt is loaded as one, with `load_prompt`."
        )
    if settings.get("task_type") not in (None, task):
        raise ValueError(
            f"{directory} is an adapter for {settings['task_type']}, but the model given is of the "
            f"kind {task}: load the model that it was made for."
        )
    peft.check_files(directory)
    method, path = _KINDS[kind], directory / peft.WEIGHTS
    leaves = _READERS[method](path, config, settings, _tensors(path))
    known = {"base_model": settings.get("base_model_name_or_path")}
    facts = {name: x for name, x in (known | facts).items() if x is not None and name != "method"}
    return Adapter(method, leaves, facts)


def _method(directory: Path, facts: dict[str, Any]) -> str:
    """Takes the method out of what `adapter.json` says."""
    method, known = facts.pop("method", None), (*NAMES, WHOLE)
    if method not in known:
        raise ValueError(
            f"{directory / FACTS}: the method is {method!r}, but known are {', '.join(known)}. "
            f"{_FETCH}"
        )
    return method


def _task_of(config: Config) -> str:
    """What PEFT calls the model."""
    if isinstance(config, EmbeddingConfig):
        return peft.ENCODER
    return peft.task_of(config.continues_inputs)


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    text = json.dumps(plain(data), indent=2, allow_nan=False) + "\n"
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _facts(directory: Path) -> dict[str, Any]:
    path = directory / FACTS
    if not path.is_file():
        return {}
    return checked_facts(json_object(path.read_bytes(), path, _FETCH), path, _FETCH)


def _settings(directory: Path) -> Mapping[str, Any]:
    path = directory / peft.CONFIG
    if not path.is_file():
        best = directory / "best"
        hint = f"; did you mean {best}?" if (best / FACTS).is_file() else "."
        raise FileNotFoundError(f"{directory} holds no adapter (no {peft.CONFIG}){hint}")
    return json_object(path.read_bytes(), path, _FETCH)


def _tensors(path: Path) -> dict[str, np.ndarray]:
    tensors = read_tensors(path)
    for name, values in tensors.items():
        if not np.isfinite(np.asarray(values, np.float32)).all():
            raise ValueError(f"{path}: {name} holds NaN or infinite values. {_FETCH}")
    return tensors
