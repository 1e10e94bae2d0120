"""The embedding models of the goldens, and what sentence-transformers made of their texts."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import GOLDENS

import prompt_tuning_jax as pt

HERE = GOLDENS / "embed"
NAMES = ("bert", "sentence_t5")
TEXTS = json.loads((HERE / "texts.json").read_text())
ANCHORS, POSITIVES = np.array([0, 2, 4]), np.array([1, 3, 5])


def load(name: str, **options: Any) -> pt.EmbeddingModel:
    return pt.load_embedding_model(HERE / name / "model", **options)


def numbers(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(HERE / name / "io.npz"))


def copied(name: str, path: Path) -> Path:
    """A copy of a model's directory, to be changed."""
    shutil.copytree(HERE / name / "model", path, copy_function=shutil.copyfile)
    return path


def edit(path: Path, **changes: Any) -> None:
    """Changes fields of a JSON file, or takes them out by `...`."""
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: x for key, x in raw.items() if x is not ...}))


def contrastive_loss(vectors, scale: float = 20.0):
    """In-batch negatives on the rows that the goldens pair."""
    unit = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit[ANCHORS] @ unit[POSITIVES].T * scale
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores, axis=1)))
