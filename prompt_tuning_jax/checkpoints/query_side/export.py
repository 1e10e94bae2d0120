"""A tuned query side as a model of sentence-transformers: a copy of its base, and the prompt.

`SentenceTransformer(DESTINATION, trust_remote_code=True)` loads it where this library is installed:
its `modules.json` names `prompted_transformer`.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.checkpoints.atomic import save_tensors, scratch_directory
from prompt_tuning_jax.checkpoints.query_side.rows import FILE, POOL, TENSOR

MODULES, SETTINGS = "modules.json", "sentence_bert_config.json"
NAMES = "config_sentence_transformers.json"
MODULE = "prompt_tuning_jax.checkpoints.query_side.prompted_transformer.PromptedTransformer"


def write_sentence_transformer(
    destination: str | os.PathLike[str],
    prompt: Float[np.ndarray, "P D"],
    base: str | os.PathLike[str],
    *,
    pool_prompt: bool,
    max_seq_length: int,
    query_name: str | None = None,
) -> None:
    """Writes the directory; what was there before must be such a one, or nothing.

    Args:
      base: the directory that sentence-transformers saved.
      query_name: of the model's text prompt that stands before queries.
      max_seq_length: how many tokens of a text the network has room for beside the prompt.

    Raises:
      ValueError: `base` is no such directory, or there is something else at `destination`.
    """
    base, destination = Path(base), Path(destination)
    if not (base / MODULES).is_file():
        raise ValueError(
            f"{base} has no {MODULES}: a model for sentence-transformers is made of one that it "
            "saved. Save yours with it first."
        )
    if destination.exists() and not _is_ours(destination):
        raise ValueError(f"{destination} is there already: name another directory.")
    with scratch_directory(destination) as partial:
        shutil.copytree(base, partial, dirs_exist_ok=True, copy_function=shutil.copyfile)
        modules = json.loads((partial / MODULES).read_text())
        modules[0]["type"] = MODULE
        (partial / MODULES).write_text(json.dumps(modules, indent=2) + "\n")
        place = partial / modules[0]["path"]
        metadata = {POOL: str(pool_prompt), "format": "pt"}
        save_tensors({TENSOR: np.asarray(prompt, np.float32)}, place / FILE, metadata)
        settings = place / SETTINGS
        known = json.loads(settings.read_text()) if settings.is_file() else {}
        settings.write_text(json.dumps(known | {"max_seq_length": max_seq_length}, indent=2) + "\n")
        if query_name is not None:
            names = partial / NAMES
            known = json.loads(names.read_text()) | {"default_prompt_name": query_name}
            names.write_text(json.dumps(known, indent=2) + "\n")
        if destination.exists():
            shutil.rmtree(destination)
        partial.rename(destination)


def _is_ours(path: Path) -> bool:
    return (path / MODULES).is_file() and MODULE in (path / MODULES).read_text()
