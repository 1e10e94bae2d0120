"""Vectors for texts, one for each line, as a .npy file.

    echo "The ferry leaves at noon." | prompt-tuning embed --model bundled --output vectors.npy
    prompt-tuning embed --model all-MiniLM-L6-v2 < texts.txt > vectors.npy
    prompt-tuning embed --model all-MiniLM-L6-v2 --prompt runs/mine/best --name query \\
      --input_file questions.txt --output questions.npy
    prompt-tuning embed --model all-MiniLM-L6-v2 --adapter runs/lora/best < questions.txt > q.npy

The model is one that sentence-transformers saved, or the encoder of any other. A prompt, or an
adapter, tunes one side of a search: what was embedded without it stays as it is, and is compared
with what is embedded with it; a prompt that was tuned for both sides (`train --sides both`) stands
before all texts. In Python it is `pt.load_embedding_model(...).embed(...)`.
"""

import dataclasses
import io
import sys
from typing import Any

import numpy as np

from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.commands.inference.infer_inputs import opened_lines
from prompt_tuning_jax.data.templates import check_unicode
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.embedding import load_embedding_model
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.parts.embedding import TextVectorConfig
from prompt_tuning_jax.settings.prompt_config import (
    AdapterConfig,
    load_adapted,
    load_checked_prompt,
)
from prompt_tuning_jax.settings.setting import PathLike, setting, settings


@settings
class EmbedConfig(TextVectorConfig, AdapterConfig):
    """What `prompt-tuning embed` takes."""

    input_file: PathLike | None = setting(
        default=None,
        help="the texts, one a line; None for standard input.",
        group="data",
        first=True,
    )
    output: PathLike | None = setting(
        default=None,
        help="the .npy file of the vectors; None for standard output.",
        group="data",
        first=True,
    )
    encoding: str | None = setting(
        default=None,
        help="of the input, such as cp1252 or utf-16; None: UTF-8.",
        group="data",
    )


CONFIG = EmbedConfig


def embed(config: EmbedConfig | None = None, **options: Any) -> np.ndarray:
    """Reads texts and writes their vectors [N, E], which it returns."""
    config = dataclasses.replace(config, **options) if config else EmbedConfig(**options)
    if config.output is None and sys.stdout.isatty():
        raise ValueError(
            f"Vectors are no text for a terminal: give {spelled('output')}, or write them to a "
            "file (> vectors.npy)."
        )
    mesh = sharding.make_mesh(config.mesh)
    given = dict(pooling=config.pooling, normalize=config.normalize, dtype=config.model_dtype)
    model = load_embedding_model(config.model, **given, mesh=mesh)
    model, _ = load_adapted(config, model)
    prompt = config.prompt
    if prompt is not None:
        prompt = load_checked_prompt(prompt, model, config.allow_prompt_mismatch)
    texts = []
    with opened_lines(config.input_file, config.encoding) as lines:
        for text, where in lines:
            check_unicode(text, f"{where}: text")
            texts.append(text)
    how = ("name", "text_prompt", "batch_size", "dtype", "max_length", "pool_prompt")
    vectors = model.embed(texts, prompt, **{name: getattr(config, name) for name in how})
    if hosts.is_first():
        _write(vectors, config.output)
    return vectors


def _write(vectors: np.ndarray, path: PathLike | None) -> None:
    if path is None:
        whole = io.BytesIO()  # numpy asks where it is in the file, which a pipe does not know
        np.save(whole, vectors, allow_pickle=False)
        sys.stdout.buffer.write(whole.getbuffer())
        sys.stdout.buffer.flush()
        return
    with new_file(path) as partial, open(partial, "wb") as file:
        np.save(file, vectors, allow_pickle=False)
    print(f"{path}: {list(vectors.shape)}, {vectors.dtype}")


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning embed")
    with hosts.connected():
        embed(config)
