"""PEFT's adapter directories: `adapter_config.json` and `adapter_model.safetensors`.

PEFT (the package `peft`, not needed here) keeps a tuned prompt as one tensor `prompt_embeddings`
of `num_transformer_submodules` * P rows. A causal model has one submodule. For an encoder-decoder
its default is two, and so twice the rows asked for; but prompt tuning there goes to the encoder
alone, which gets the first P rows. The others are trained on nothing (their gradient is zero) and
never used. Read, they are left out; written, there are none: one submodule, which every PEFT loads,
computes the same.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.checkpoints.array_files import read_tensors
from prompt_tuning_jax.checkpoints.atomic import new_file, save_tensors
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.json_values import json_object

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_TENSOR = "prompt_embeddings"
APART = "The two files do not belong together: fetch both again."
# What PEFT calls the tasks of the models whose prompts are read -> its default for submodules.
ENCODER_DECODER, CAUSAL, ENCODER = "SEQ_2_SEQ_LM", "CAUSAL_LM", "FEATURE_EXTRACTION"
_SUBMODULES_OF = {ENCODER_DECODER: 2, CAUSAL: 1, ENCODER: 1}
_TASK = "peft_task_type"
# P-tuning trains its prompt through a small network, but saves, and then uses, that one's output.
_PROMPTS = ("PROMPT_TUNING", "P_TUNING")
_OTHERS = {
    "MULTITASK_PROMPT_TUNING": "a prompt and factors that change it for each task, which "
    "`prompt-tuning import` writes as a prompt for each",
    "PREFIX_TUNING": "keys and values for the attention of every layer",
    "CARTRIDGE": "keys and values for the attention of every layer",
    "CPT": "a prompt for causal models",
}


def is_adapter(directory: str | os.PathLike) -> bool:
    """Whether a directory is, by its files, a PEFT adapter, of whatever kind."""
    return any((Path(directory) / name).is_file() for name in (CONFIG, WEIGHTS, _PICKLE))


def read_adapter(
    directory: str | os.PathLike,
) -> tuple[Float[np.ndarray, "P D"], dict[str, Any]]:
    """A prompt from an adapter that PEFT's prompt tuning or P-tuning wrote.

    Returns:
      The rows that PEFT uses, [P, D], as stored; and what the adapter says of itself:
      `base_model`, `peft_type`, `peft_task_type`, `peft_version`, and `peft_unused_rows` where
      there are any.

    Raises:
      FileNotFoundError: one of the two files is missing, or the weights are only a pickle.
      ValueError: another kind of adapter, or a file that is corrupt or contradicts the other.
    """
    directory = Path(directory)
    check_files(directory)
    path = directory / CONFIG
    config = json_object(path.read_bytes(), path, "Fetch it again.")
    for name in ("peft_type", "task_type", "base_model_name_or_path", "peft_version"):
        if not isinstance(config.get(name, ""), str | None):
            raise ValueError(f"{path}: {name} must be text, not {config[name]!r}. Fetch it again.")
    _check_kind(directory, config)
    length, rows = _sizes(path, config)
    values = _read_tensor(directory / WEIGHTS)
    expected = (rows, config.get("token_dim"))
    if values.shape != expected:
        raise ValueError(
            f"{directory / WEIGHTS}: {_TENSOR} is {list(values.shape)}, but {CONFIG} describes "
            f"{list(expected)}. {APART}"
        )
    facts = {
        "base_model": config.get("base_model_name_or_path"),
        "peft_type": config["peft_type"],
        _TASK: config["task_type"],
        "peft_version": config.get("peft_version"),
        "peft_unused_rows": rows - length,
    }
    return values[:length], {name: fact for name, fact in facts.items() if fact}


def task_of(continues_inputs: bool) -> str:
    """What PEFT calls a model: causal, where targets go on from an input, or encoder-decoder."""
    return CAUSAL if continues_inputs else ENCODER_DECODER


def check_task(facts: Mapping[str, Any], continues_inputs: bool) -> None:
    """ValueError where a prompt came from an adapter for the other kind of model."""
    made_for, wanted = facts.get(_TASK), task_of(continues_inputs)
    if made_for not in (None, wanted):
        kind = "causal" if continues_inputs else "an encoder-decoder"
        raise ValueError(
            f"This prompt is PEFT's for a model of the kind {made_for}, but the model given is "
            f"{kind}, whose adapters are {wanted}: load the model that it was tuned for."
        )


def write_adapter(
    directory: str | os.PathLike,
    values: Float[np.ndarray, "P D"],
    *,
    base_model: str,
    num_layers: int,
    num_heads: int,
    task_type: str = ENCODER_DECODER,
    layout: str = "prefix",
    visibility: str = "full",
) -> Path:
    """Writes an adapter that `PeftModel.from_pretrained(base, directory)` loads.

    Args:
      base_model: the frozen model's name for PEFT: what transformers loads, a directory or a
        name on the hub.
      num_layers, num_heads: of the stack that the prompt is for. PEFT wants to know; a prompt does
        not depend on it.
      task_type: what PEFT calls the model's kind.
      layout, visibility: of the prompt; PEFT knows only "prefix" and "full".

    Raises:
      ValueError: another layout or visibility.
    """
    if layout != "prefix":
        raise ValueError(
            f"This prompt stands as {layout!r}, but PEFT puts every prompt before the input, where "
            "it would compute something else. Tune it with the layout 'prefix', or export it to a "
            ".npy file."
        )
    if visibility != "full":
        raise ValueError(
            f"This prompt was tuned with the visibility {visibility!r}, but PEFT lets every "
            "position see all others, where it would compute something else."
        )
    length, width = values.shape
    # The fields that every version of PEFT knows; for the others its defaults are right.
    config = {
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "num_attention_heads": num_heads,
        "num_layers": num_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": length,
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",  # nothing is drawn, the values are there
        "task_type": task_type,
        "token_dim": width,
    }
    directory = Path(directory)
    # The configuration comes last: without it the adapter cannot be read.
    with new_file(directory / WEIGHTS) as partial:
        save_tensors({_TENSOR: np.ascontiguousarray(values)}, partial, {"format": "pt"})
    with new_file(directory / CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return directory


def check_files(directory: Path) -> None:
    """FileNotFoundError where one of the two files is missing, or the weights are a pickle."""
    if not (directory / CONFIG).is_file():
        raise FileNotFoundError(f"{directory} has no {CONFIG}: copy the whole adapter directory.")
    if (directory / WEIGHTS).is_file():
        return
    if (directory / _PICKLE).is_file():
        raise FileNotFoundError(
            f"{directory} has its weights only as {_PICKLE}, a pickle, which can run code and is "
            "never read. Save them again where peft is installed: PeftModel.from_pretrained(BASE, "
            f"{str(directory)!r}).save_pretrained(NEW_DIRECTORY), and pass NEW_DIRECTORY."
        )
    raise FileNotFoundError(f"{directory} has no {WEIGHTS}: copy the whole adapter directory.")


def _check_kind(directory: Path, config: Mapping[str, Any]) -> None:
    """Refuses what is not one [P, D] prompt before a model's input."""
    kind, task = config.get("peft_type"), config.get("task_type")
    if kind not in _PROMPTS:
        what = _OTHERS.get(kind, "weights changed or added within the model")
        raise ValueError(
            f"{directory} is a PEFT adapter of type {kind}: {what}. Only {' and '.join(_PROMPTS)} "
            f"are a prompt, vectors before the input; an adapter is used with {spelled('adapter')}."
        )
    check_task_type(directory, task)


def check_task_type(directory: Path, task: Any) -> None:
    """Refuses a prompt for another kind of model than there is here."""
    if task not in list(_SUBMODULES_OF):
        raise ValueError(
            f"{directory} is a PEFT prompt for {task}; a T5's is for {ENCODER_DECODER}, a causal "
            f"model's for {CAUSAL}, an embedding model's for {ENCODER}, and no other is read."
        )


def _sizes(path: Path, config: Mapping[str, Any]) -> tuple[int, int]:
    """How many rows PEFT uses, and how many there are."""
    length = config.get("num_virtual_tokens")
    submodules = config.get("num_transformer_submodules") or _SUBMODULES_OF[config["task_type"]]
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise ValueError(f"{path}: num_virtual_tokens must be a positive number, not {length!r}.")
    known = range(1, _SUBMODULES_OF[config["task_type"]] + 1)
    if submodules not in known or isinstance(submodules, bool):
        raise ValueError(
            f"{path}: num_transformer_submodules is {submodules!r}; a T5 has at most two, its "
            "encoder and its decoder, and a causal model has one."
        )
    return length, length * submodules


def _read_tensor(path: Path) -> np.ndarray:
    tensors = read_tensors(path)
    if _TENSOR not in tensors:
        raise ValueError(f"{path} holds {sorted(tensors)}, not a tensor named {_TENSOR!r}.")
    if others := sorted(tensors.keys() - {_TENSOR}):
        raise ValueError(
            f"{path} holds weights of the base model too ({others[0]}, {len(others)} in all), "
            "trained or resized with the prompt: the prompt alone is another model."
        )
    return tensors[_TENSOR]
