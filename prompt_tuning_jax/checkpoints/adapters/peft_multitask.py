"""PEFT's multitask prompt tuning (MPT): a prompt, and factors that change it for each task.

    prompt[n] = prompt_embeddings * (prefix_task_cols[n] @ prefix_task_rows[n])

is a prompt as any other, so one adapter is N of them.
"""

import json
import os
from pathlib import Path

import numpy as np

from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.array_files import read_tensors
from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.methods.shared_parts import COMMON, fold
from prompt_tuning_jax.tuned_prompt import TunedPrompt

KIND = "MULTITASK_PROMPT_TUNING"
_NAMES = {COMMON: "prompt_embeddings", "columns": "prefix_task_cols", "rows": "prefix_task_rows"}


def is_multitask(directory: str | os.PathLike) -> bool:
    """Whether a directory is such an adapter, by its own word."""
    try:
        config = json.loads((Path(directory) / peft.CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("peft_type") == KIND


def read_multitask(directory: str | os.PathLike) -> list[TunedPrompt]:
    """The prompt of each task, in PEFT's order.

    Raises:
      FileNotFoundError: one of the two files is missing, or the weights are only a pickle.
      ValueError: rows for a decoder too; or a file that is corrupt or contradicts the other.
    """
    directory = Path(directory)
    peft.check_files(directory)
    path, weights = directory / peft.CONFIG, directory / peft.WEIGHTS
    config = json_object(path.read_bytes(), path, "Fetch it again.")
    task = config.get("task_type")
    peft.check_task_type(directory, task)
    submodules = config.get("num_transformer_submodules") or (2 if task != peft.CAUSAL else 1)
    if submodules != 1:
        raise ValueError(
            f"{directory} is a multitask prompt with rows for the decoder's input too "
            f"(num_transformer_submodules is {submodules!r}), where no prompt stands here."
        )
    tensors = read_tensors(weights)
    if set(tensors) != set(_NAMES.values()):
        raise ValueError(f"{weights} holds {sorted(tensors)}, not {sorted(_NAMES.values())}.")
    sizes = ("num_tasks", "num_virtual_tokens", "num_ranks", "token_dim")
    for name in sizes:
        if type(config.get(name)) is not int or config[name] < 1:
            raise ValueError(f"{path}: {name} must be a positive number, not {config.get(name)!r}.")
    N, P, r, D = (config[name] for name in sizes)
    for name, shape in zip(_NAMES.values(), ((P, D), (N, P, r), (N, r, D)), strict=True):
        if tensors[name].shape != shape:
            raise ValueError(
                f"{weights}: {name} is {list(tensors[name].shape)}, but {peft.CONFIG} describes "
                f"{list(shape)}. {peft.APART}"
            )
    prompts = fold("product", {part: tensors[name] for part, name in _NAMES.items()})
    facts = {
        "base_model": config.get("base_model_name_or_path"),
        "peft_type": KIND,
        "peft_task_type": task,
        "peft_version": config.get("peft_version"),
    }
    known = {name: fact for name, fact in facts.items() if fact}
    return [
        TunedPrompt(values, metadata={**known, "peft_task": i})
        for i, values in enumerate(np.asarray(prompts, np.float32))
    ]
