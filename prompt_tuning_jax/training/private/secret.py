"""The secret of a private run: what its noise, its samples and its dropout are drawn from.

Whoever knew it could take the noise off again, so it comes from the operating system and not from
`seed`. It is written once, when the run begins, to a file that its owner alone may read; a resumed
run draws the same numbers.
"""

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.step_types import Key

FILE = "secret.json"
WORDS = 4
_WHAT = "Keep this to yourself: with it the noise can be taken off this run's prompts."


class Secret:
    """The words of a private run; none of another. It is part of the run's identity."""

    def __init__(self, config: TrainConfig):
        self.words = read(Path(config.model_dir)) if config.is_private else None

    def facts(self) -> str | None:
        if self.words is None:
            return None
        return hashlib.sha256(json.dumps(self.words).encode()).hexdigest()

    def difference(self, before: Any) -> str | None:
        same = before == self.facts()
        return None if same else f"its noise is of another {FILE}, which must be put back"

    def key(self, seed: int) -> Key:
        """The run's random key: of the secret, or, where there is none, of `seed`."""
        if self.words is None:
            return jax.random.key(seed)
        words = jnp.array(self.words[:2], jnp.uint32)
        return jax.random.wrap_key_data(words, impl="threefry2x32")

    @property
    def of_samples(self) -> list[int]:
        return self.words[2:]


def read(directory: Path) -> list[int]:
    """The words in a run's directory, which are made where there are none.

    Raises:
      ValueError: the file holds none.
    """
    path = directory / FILE
    if not path.exists():
        words = [secrets.randbits(32) for _ in range(WORDS)]
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        owner_only = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(owner_only, "w") as file:
            json.dump({"what": _WHAT, "words": words}, file)
        partial.replace(path)
    try:
        words = json.loads(path.read_text())["words"]
        whole = len(words) == WORDS and all(0 <= int(word) < 2**32 for word in words)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(
            f"{path} is damaged: put it back from a copy, or start in another directory."
        )
    return words
