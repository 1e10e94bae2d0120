"""The fields of a model's `config.json`, each checked as it is read."""

import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompt_tuning_jax.json_values import json_object

# The sizes of a stack of Gemma's and Llama's kind, in the order of published tables.
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
)
FETCH = "Fetch it again."
NO_SYNONYMS: Mapping[str, str] = types.MappingProxyType({})
_LARGEST = 2**31 - 1
# The activations by transformers' names; in T5, where the MLP is gated, its "gelu" means gelu_new.
ACTIVATIONS = {
    "gelu": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "linear": "linear",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a `config.json`, as it is written.

    Raises:
      ValueError: there is none, with what to do.
    """
    return json_object(path.read_bytes(), path, FETCH)


class Fields:
    """The fields of a `config.json`; null, as older files write, is a field that is not there."""

    def __init__(
        self, path: str | Path, raw: Mapping[str, Any], synonyms: Mapping[str, str] = NO_SYNONYMS
    ):
        """The fields of the file at `path`.

        Args:
          synonyms: other names of fields, which transformers obeys too.
        """
        self.path, self._synonyms = path, synonyms
        self._raw = {key: value for key, value in raw.items() if value is not None}

    def get(self, key: str, default: Any = None) -> Any:
        """A field's value as it is written, under either of its names."""
        names = [name for name in (key, self._synonyms.get(key)) if name in self._raw]
        if len(names) == 2 and self._raw[names[0]] != self._raw[names[1]]:
            raise ValueError(
                f"{self.path}: {names[0]} is {self._raw[names[0]]!r} and {names[1]}, another name "
                f"for it, is {self._raw[names[1]]!r}. Correct the one that is wrong."
            )
        return self._raw[names[0]] if names else default

    def count(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if value is None:
            raise ValueError(f"{self.path} has no {key!r}, which a model's config.json must give.")
        if not _is_whole(value) or not 0 < value <= _LARGEST:
            raise ValueError(
                f"{self.path}: {key} must be a positive whole number, below 2**31, not {value!r}."
            )
        return value

    def token(self, key: str, default: int) -> int:
        return self.checked_token(key, self.get(key, default))

    def checked_token(self, key: str, value: Any) -> int:
        if not _is_whole(value) or not 0 <= value < self.count("vocab_size"):
            raise ValueError(
                f"{self.path}: {key} must be a token id, 0 to vocab_size - 1, not {value!r}."
            )
        return value

    def number(self, key: str, default: float) -> float:
        value = self.get(key, default)
        if not (_is_whole(value) or isinstance(value, float)) or not 0 <= value < 1:
            raise ValueError(f"{self.path}: {key} must be a number in [0, 1), not {value!r}.")
        return float(value)

    def positive(self, key: str, default: float | None = None) -> float | None:
        """A number above 0; None where there is none and no default."""
        value = self.get(key, default)
        if value is None:
            return None
        if not (_is_whole(value) or isinstance(value, float)) or not 0 < value < math.inf:
            raise ValueError(f"{self.path}: {key} must be a number above 0, not {value!r}.")
        return float(value)

    def flag(self, key: str) -> bool | None:
        value = self.get(key)
        if not isinstance(value, bool | None):
            raise ValueError(f"{self.path}: {key} must be true or false, not {value!r}.")
        return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
