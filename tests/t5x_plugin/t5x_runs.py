"""Runs of T5X, and a base checkpoint of a few thousand random weights.

A T5X program started as a command takes half a minute; inside the test process its imports and
compiled programs are shared. The gin files, and T5X's own functions that they configure, are those
of the command.
"""

import functools
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np
import tiny
from common import HANG

from prompt_tuning_jax import T5Config
from prompt_tuning_jax.checkpoints import t5x
from prompt_tuning_jax.checkpoints.t5x.checkpoint import open_checkpoint

GIN = "prompt_tuning_jax/gin_configs/t5x"
TRAIN = (f"{GIN}/models/bundled.gin", f"{GIN}/prompts/class_labels.gin", f"{GIN}/runs/train.gin")
FUNCTIONS = {"train": "train", "eval": "evaluate", "infer": "infer"}
BASE_STEP = 3
CONFIG = T5Config(
    vocab_size=4224,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
SHAPE = {
    f"config.T5Config.{name}": getattr(CONFIG, name)
    for name in ("emb_dim", "num_heads", "head_dim", "mlp_dim")
} | {"config.T5Config.num_encoder_layers": 1, "config.T5Config.num_decoder_layers": 1}
TASK = {
    "MIXTURE_OR_TASK_NAME": "bundled_sentiment",
    "MIXTURE_OR_TASK_MODULE": "prompt_tuning_jax.tasks.bundled",
    "TASK_FEATURE_LENGTHS": {"inputs": 24, "targets": 4},
    "ACTIVATION_DTYPE": "float32",
    "BATCH_SIZE": 8,
}
# Twelve steps from a base checkpoint of step 3, without evaluation.
SHORT = {
    "PROMPT_LENGTH": 5,
    "TRAIN_STEPS": BASE_STEP + 12,
    "CHECKPOINT_PERIOD": 4,
    "CHECKPOINTS_TO_KEEP": None,
    "DROPOUT_RATE": 0.0,
    "train.train_eval_dataset_cfg": None,
    "train.infer_eval_dataset_cfg": None,
}


class Gin(str):
    """A value that is written to gin as it stands."""

    __repr__ = str.__str__


@functools.cache
def program(name: str) -> Any:
    """T5X's function as gin configures it."""
    module = importlib.import_module(f"t5x.{name}")
    return gin.configurable(getattr(module, FUNCTIONS[name]))


def parse(name: str, files: tuple[str, ...], bindings: dict[str, Any]) -> None:
    """Reads gin files as `python -m t5x.NAME` does, whose module is then `__main__`."""
    program(name)
    gin.clear_config()
    lines = [f"{key} = {value!r}" for key, value in bindings.items()]
    this = sys.modules["__main__"]
    sys.modules["__main__"] = sys.modules[f"t5x.{name}"]
    try:
        gin.parse_config_files_and_bindings(list(files), lines)
    finally:
        sys.modules["__main__"] = this


def run(name: str, files: tuple[str, ...], bindings: dict[str, Any]) -> Any:
    parse(name, files, TASK | SHAPE | bindings)
    try:
        return program(name)()
    finally:
        gin.clear_config()


def train(model_dir: Path, base: Path, files: tuple[str, ...] = TRAIN, **bindings: Any) -> Any:
    paths = {"MODEL_DIR": str(model_dir), "INITIAL_CHECKPOINT_PATH": str(base)}
    return run("train", files, SHORT | paths | bindings)


def write_base(directory: Path, form: str = "orbax") -> Path:
    """A checkpoint of random weights, without a prompt."""
    return t5x.save(directory, tiny.make_params(CONFIG), BASE_STEP, form)


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    return {name: leaf.read() for name, leaf in open_checkpoint(checkpoint).leaves().items()}


def prompt(checkpoint: Path) -> np.ndarray:
    return weights(checkpoint)["encoder/prompt/prompt"]


def infer(output: Path, base: Path, *files: str, **bindings: Any) -> list[Any]:
    """Predictions for the validation split, in its order; log-likelihoods if MODE is "score"."""
    paths = {"INFER_OUTPUT_DIR": str(output), "INITIAL_CHECKPOINT_PATH": str(base)}
    run("infer", (*files, f"{GIN}/models/bundled.gin", f"{GIN}/runs/infer.gin"), paths | bindings)
    (written,) = output.glob("*.jsonl-00000-of-00001")
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    key = "score" if bindings.get("MODE") == "score" else "prediction"
    return [line[key] for line in lines]


def evaluate(output: Path, base: Path, *files: str, **bindings: Any) -> dict[str, float]:
    """The metrics of the validation split."""
    paths = {"EVAL_OUTPUT_DIR": str(output), "INITIAL_CHECKPOINT_PATH": str(base)}
    run("eval", (*files, f"{GIN}/models/bundled.gin", f"{GIN}/runs/eval.gin"), paths | bindings)
    (written,) = output.glob("inference_eval/*-metrics.jsonl")
    return json.loads(written.read_text().splitlines()[-1])


def start(
    here: Path, program: str, files: Sequence[str], bindings: Mapping[str, Any]
) -> subprocess.Popen:
    """`python -m t5x.PROGRAM` in the directory `here`, which writes PROGRAM.log."""
    command = [sys.executable, "-m", f"t5x.{program}"]
    command += [f"--gin_file={file}" for file in files]
    command += [f"--gin.{name}={value!r}" for name, value in bindings.items()]
    environment = os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    with open(here / f"{program}.log", "a") as log:
        return subprocess.Popen(command, cwd=here, env=environment, stdout=log, stderr=log)


def finish(process: subprocess.Popen, here: Path, program: str) -> None:
    assert process.wait(HANG) == 0, (here / f"{program}.log").read_text()[-2000:]
