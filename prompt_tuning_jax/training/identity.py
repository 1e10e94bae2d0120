"""What makes two runs the same run: their settings, and what they read.

A saved state is continued only by its own run. Data that were edited under the same path, and a
prompt to start from that is another by now, make another run.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.checkpoints.run_state import Digest
from prompt_tuning_jax.data.records.digest import FilesDigest
from prompt_tuning_jax.data.task import Example, ExampleList, Source, Task
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.json_values import plain
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.family import family_of
from prompt_tuning_jax.params import SHARED_NAME, flatten
from prompt_tuning_jax.settings.setting import macro_name, names_where, setting_name, settings_of
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.prompt_start import names_a_file
from prompt_tuning_jax.training.step_types import Params

SAMPLED = 256  # examples of a source that is neither files nor a list


class ExamplesDigest:
    """The examples of a source: all of a list, the first ones of another."""

    def __init__(self, source: Source, role: str):
        some = source if isinstance(source, ExampleList) else source.stream(seed=None, epoch=0)
        limit = None if isinstance(source, ExampleList) else SAMPLED
        digest = hashlib.sha256()
        for example in itertools.islice(some, limit):
            digest.update(_bytes_of(example))
        self._role, self._sha256 = role, digest.hexdigest()

    def facts(self) -> str:
        return self._sha256

    def difference(self, before: Any) -> str | None:
        changed = before != self._sha256
        return f"the {self._role} examples have changed since this run began" if changed else None


def _bytes_of(example: Example) -> bytes:
    values = {name: plain(value) for name, value in example.items()}
    # Of what JSON has not, the kind alone: its text may hold an address.
    return json.dumps(values, sort_keys=True, default=lambda x: type(x).__name__).encode()


class PromptStart:
    """Where a prompt starts; of a file, its values."""

    def __init__(self, spec: Any):
        self._spec, self._sha256 = spec, None
        if callable(spec):
            self._spec = getattr(spec, "__qualname__", type(spec).__name__)
        elif names_a_file(spec):
            self._spec = str(spec)
            self._sha256 = hashlib.sha256(load_prompt(spec).values.tobytes()).hexdigest()

    def facts(self) -> dict[str, Any]:
        return {"prompt_init": self._spec, "sha256": self._sha256}

    def difference(self, before: Mapping[str, Any]) -> str | None:
        if before["sha256"] is not None and before["sha256"] == self._sha256:
            return None  # the same prompt, wherever it lies now
        name, was = spelled("prompt_init"), before["prompt_init"]
        if was != self._spec:
            return f"{name} was {was!r}, now {self._spec!r}"
        if before["sha256"] != self._sha256:
            return f"the prompt {self._spec}, at which {name} starts, has changed since then"
        return None


def run_inputs(config: TrainConfig, task: Task) -> dict[str, Digest]:
    """What a run reads, to be compared with what it read when it began."""
    train, held_out = task.split("train"), task.splits.get(config.eval_split)
    if held_out is not None and getattr(held_out, "files", None) == getattr(train, "files", ()):
        held_out = None  # a share of the same files
    return {
        "TRAIN_DATA": data_digest(train, "training"),
        "EVAL_DATA": data_digest(held_out, config.eval_split),
        "PROMPT_START": PromptStart(config.prompt_init if config.input_rows else None),
    }


def data_digest(source: Source | None, role: str) -> Digest:
    """The digest of a source's files, or of its examples."""
    files = [] if source is None else getattr(source, "files", None)
    return ExamplesDigest(source, role) if files is None else FilesDigest(files, role)


def spelled_identity(key: str) -> str:
    """A key of `run_identity`, before which a run's name may stand, as its reader writes it."""
    run, colon, macro = key.rpartition(": ")
    name = setting_name(macro)
    shown = "the number of training examples" if name == "train_examples" else spelled(name)
    return f"{run}{colon}{shown}"


def usual_identity(key: str) -> Any:
    """What a key of `run_identity` was before there was such a setting: its default."""
    declared = settings_of(TrainConfig).get(setting_name(key.rpartition(": ")[2]))
    return None if declared is None else declared.default


def run_identity(
    config: TrainConfig,
    model: FrozenModel,
    task: Task,
    trainable: Params,
    frozen: Params,
) -> dict[str, Any]:
    """What makes two runs the same run; a saved state is continued only by its own."""
    examples = task.split("train")
    of_task = {
        "task": task.name,
        "train_examples": len(examples) if hasattr(examples, "__len__") else None,
        "shared_prompt": None,
    }
    if config.shared_prompt is not None:
        shared = {**frozen, **trainable}[SHARED_NAME]
        of_task["shared_prompt"] = fingerprint({"shared": shared})
    table = flatten(model.params)[family_of(model.config).EMBEDDING_NAME]
    return settings_identity(config, model.fingerprint, table.dtype, trainable, of_task)


def settings_identity(
    config: TrainConfig, model: str, dtype: Any, trainable: Params, others: Mapping[str, Any]
) -> dict[str, Any]:
    """The part of it that is the same whatever a run's task is.

    Args:
      model, dtype: its fingerprint, and that of its weights.
      others: what the task says.
    """
    settings = {name: getattr(config, name) for name in names_where(TrainConfig, "identity")}
    settings |= {
        "dropout_rate": config.dropout,
        "average_decay": config.averaging,
        # A schedule that ends with the run is another where the run is longer.
        "train_steps": None if config.schedule == "constant" else config.train_steps,
        "model": model,
        "model_dtype": str(dtype),
        "trainable": sorted(trainable),
        **others,
    }
    return {macro_name(name): value for name, value in settings.items()}
