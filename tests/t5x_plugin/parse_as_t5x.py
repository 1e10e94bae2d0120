"""Reads gin files and imports task modules as T5X does, each in a process with T5X's imports only.

    python parse_as_t5x.py experiments     # prints {what was read: its error, or ""} as JSON
    python parse_as_t5x.py task_modules    # the same

T5X itself is replaced by a stand-in, so that this runs where T5X is not. What gin knows is part of
a process, so each file and module has its own, forked where T5X would begin to read its flags.
"""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path

import gin
import jax
import optax
import orbax.checkpoint
import seqio
import t5x_signatures
import tensorflow as tf

T5X_IMPORTS = (jax, optax, orbax.checkpoint, seqio, tf)  # of those that this package needs too
ROOT = Path(__file__).parents[2]
GIN = "prompt_tuning_jax/gin_configs/t5x"
BINDINGS = ["MODEL_DIR = 'runs/x'", "VOCABULARY_FILE = 'bundled'"]


def read_experiment(file: str) -> None:
    """All that happens before T5X's `train` begins, and its first import of the task module."""
    train = _begin("train", [f"{GIN}/experiments/{file}"], BINDINGS)
    model = train["model"].given
    for split in ("train", "train_eval", "infer_eval"):
        data = train[f"{split}_dataset_cfg"].given
        importlib.import_module(data["module"])
        task = seqio.get_mixture_or_task(data["mixture_or_task_name"])
        assert task.output_features["inputs"].vocabulary == model["input_vocabulary"]
    assert train["model_dir"] == os.path.abspath("runs/x")


def read_task_module(module: str) -> None:
    """A task module alone, imported when gin is locked, as by a gin file of a user's own."""
    _begin("train", [], ["train.total_steps = 1"], call=False)
    importlib.import_module(f"prompt_tuning_jax.tasks.{module}")


def _begin(program: str, files: list[str], bindings: list[str], call: bool = True) -> dict | None:
    module = importlib.import_module(f"t5x.{program}")
    sys.modules["__main__"] = module
    function = gin.configurable(getattr(module, program))
    gin.parse_config_files_and_bindings(files, bindings)
    assert gin.config_is_locked()
    return function().given if call else None


def in_a_process(read, what: str) -> str:
    """The error of `read(what)` in a fork of this process, or ""."""
    receive, send = os.pipe()
    if os.fork() == 0:
        os.close(receive)
        error = ""
        try:
            read(what)
        except BaseException:
            error = traceback.format_exc()
        os.write(send, error.encode()[-60_000:])
        os._exit(0)
    os.close(send)
    with open(receive) as pipe:
        error = pipe.read()
    os.wait()
    return error


if __name__ == "__main__":
    t5x_signatures.stand_in(json.loads(t5x_signatures.FILE.read_text()))
    read, names = {
        "experiments": (
            read_experiment,
            [path.name for path in (ROOT / "gin_configs/t5x/experiments").glob("*.gin")],
        ),
        "task_modules": (
            read_task_module,
            [path.stem for path in (ROOT / "tasks").glob("[a-z]*.py")],
        ),
    }[sys.argv[1]]
    print(json.dumps({name: in_a_process(read, name) for name in sorted(names)}))
