"""The causal models of the goldens: the copies here, and the others where the shared ones are."""

from pathlib import Path

import numpy as np
from common import GOLDENS, shared_dir

import prompt_tuning_jax as pt

HERE = GOLDENS / "causal"


def found() -> dict[str, Path]:
    """Name -> directory of the model."""
    models = {path.parent.name: path.parent for path in HERE.glob("*/config.json")}
    shared = shared_dir() and shared_dir() / "goldens" / "families" / "causal"
    for path in sorted(shared.glob("*/model/config.json")) if shared else ():
        models.setdefault(path.parent.parent.name, path.parent)
    return models


MODELS = found()
WITH_PROMPTS = [name for name in ("qwen3", "llama", "gemma2", "gemma3") if name in MODELS]


def file_of(name: str, file: str) -> Path:
    """One of a golden's files that stand beside its model."""
    path = MODELS[name]
    return (path if path.parent == HERE else path.parent) / file


def numbers(name: str, file: str = "io.npz") -> dict[str, np.ndarray]:
    return dict(np.load(file_of(name, file)))


def padded(model: pt.FrozenModel, io: dict[str, np.ndarray], rows: str) -> np.ndarray:
    """Token ids with the model's own padding."""
    ids = io[f"{rows}_input_ids"]
    mask = io.get(f"{rows}_attention_mask", np.ones_like(ids))
    return np.where(mask > 0, ids, model.config.pad_id).astype(np.int32)


def continued(model: pt.FrozenModel, texts: np.ndarray, targets: np.ndarray) -> dict:
    """A batch of T5's form, its loss being the mean over targets."""
    config = model.config
    start = np.full((len(targets), 1), config.start_id, np.int32)
    counts = targets != config.pad_id
    return {
        "encoder_input_tokens": texts,
        "decoder_input_tokens": np.concatenate([start, targets[:, :-1]], axis=1),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": counts.astype(np.float32) / np.float32(counts.sum()),
    }


def no_text(model: pt.FrozenModel, rows: int) -> np.ndarray:
    return np.full((rows, 1), model.config.pad_id, np.int32)


def next_logits(model: pt.FrozenModel, ids: np.ndarray, prompt=None) -> np.ndarray:
    """Logits after each of a row's tokens [B, T, V], all of them targets of an empty text."""
    start = np.full((len(ids), 1), model.config.start_id, np.int32)
    tokens = np.concatenate([start, ids], axis=1)
    return np.asarray(model.logits(no_text(model, len(ids)), tokens, prompt))[:, 1:]
