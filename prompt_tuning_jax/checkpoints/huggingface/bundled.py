"""The models that come with the package, by the names that stand for their directories."""

import os
import types
from collections.abc import Mapping
from pathlib import Path

_ROOM = Path(__file__).parents[2] / "bundled"
# The T5, and its causal sibling.
BUNDLED, BUNDLED_CAUSAL = _ROOM / "model", _ROOM / "causal_model"
BUNDLED_MODELS: Mapping[str, Path] = types.MappingProxyType(
    {"bundled": BUNDLED, "bundled_causal": BUNDLED_CAUSAL}
)


def directory_of(model: str | os.PathLike) -> str | os.PathLike:
    """A bundled model's directory; of any other model, what names it."""
    return BUNDLED_MODELS.get(os.fspath(model), model)
