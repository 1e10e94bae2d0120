"""A tuned prompt: its values, how it is used, and which frozen model it belongs to."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.layout import LAYOUTS, VISIBILITIES

# Facts of a prompt file that say which frozen model the prompt is for.
FINGERPRINT = "base_model_fingerprint"
VOCABULARY = "vocabulary_hash"
# And how that made vectors of texts, where it was tuned for vectors.
POOLING, NORMALIZES = "pooling", "normalizes"
OF_MODEL = (FINGERPRINT, VOCABULARY, POOLING, NORMALIZES)
# Whether its positions count in that pooling, behind which of the model's text prompts it and
# documents stood, and which texts it stands before, one of an embedding model's `SIDES`.
POOL_PROMPT, QUERY_NAME, DOCUMENT_NAME, SIDE = "pool_prompt", "query_name", "document_name", "sides"
# Those about the task, which are as true of what is made from the prompt.
OF_TASK = (
    *("task", "verbalizers", "input_template", "target_template", "feature_lengths"),
    *("predictions", "missing", POOL_PROMPT, QUERY_NAME, DOCUMENT_NAME, SIDE),
)
# How a refusal is overridden in Python.
ANY_MODEL = "pass its `for_any_model()`"


@dataclasses.dataclass(frozen=True, eq=False)
class TunedPrompt:
    """A prompt's values, how it is used, and what is known of its making.

    Attributes:
      values: [P, D] float32.
      layout: where its rows stand in the input, one of `layout.LAYOUTS`.
      visibility: what they may attend to, one of `layout.VISIBILITIES`.
      metadata: JSON values, such as `base_model`, `task`, `verbalizers`, `step`, `scores`.
    """

    values: Float[np.ndarray, "P D"]
    layout: str = "prefix"
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    visibility: str = "full"

    def __post_init__(self):
        object.__setattr__(self, "values", checked_values(self.values, "this prompt"))
        check_use(self.layout, self.visibility)

    def __repr__(self) -> str:
        use = f"{list(self.shape)}, {self.layout}, {self.visibility} visibility"
        known = [f", {k} {self.metadata[k]!r}" for k in ("task", "step") if k in self.metadata]
        return f"TunedPrompt({use}{''.join(known)})"

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape

    @property
    def base_fingerprint(self) -> str | None:
        """Fingerprint of the weights that it was tuned for; None where that is not known."""
        return self.metadata.get(FINGERPRINT)

    def for_any_model(self) -> "TunedPrompt":
        """The same, without a word of which model it was tuned for: no other then refuses it."""
        kept = {k: x for k, x in self.metadata.items() if k not in OF_MODEL}
        return dataclasses.replace(self, metadata=kept)


def check_use(layout: str, visibility: str) -> None:
    """Refuses, with a ValueError, what is no layout or no visibility."""
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown prompt layout {layout!r}; choose one of {LAYOUTS}.")
    if visibility not in VISIBILITIES:
        raise ValueError(f"Unknown prompt visibility {visibility!r}; choose one of {VISIBILITIES}.")


def checked_values(values: Any, name: str) -> Float[np.ndarray, "P D"]:
    values = np.asarray(values)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(shape_error(values, name))
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"A prompt is floating-point; {name} is {values.dtype}.")
    values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"A prompt is finite; {name} holds NaN or infinite values.")
    return values


def shape_error(values: Any, name: str) -> str:
    return f"A prompt is [length, width]; {name} is {list(values.shape)}."


def check_compatible(
    prompt: TunedPrompt,
    *,
    fingerprint: str | None = None,
    vocabulary_hash: str | None = None,
    emb_dim: int | None = None,
    allow_prompt_mismatch: bool = False,
    override: str | None = None,
    embeds: bool = False,
) -> None:
    """Refuses a prompt that was tuned for another frozen model or vocabulary.

    What the prompt does not say (a bare `.npy` says nothing) or the caller does not give is not
    compared.

    Args:
      override: how the refusal is overridden, in the words of an error; None: by
        `allow_prompt_mismatch`.
      embeds: whether the model makes vectors of texts, and not texts.

    Raises:
      ValueError: width, model or vocabulary differ, or what the model makes of texts.
        `allow_prompt_mismatch` overrides all but the width.
    """
    made_for = prompt.metadata.get("base_model", "another model")
    if POOLING in prompt.metadata and not embeds and not allow_prompt_mismatch:
        raise ValueError(
            f"This prompt was tuned for vectors of texts, by the embedding model {made_for}, and "
            "makes no answers: use it with `prompt-tuning embed` or `prompt-tuning search`."
        )
    if emb_dim is not None and prompt.shape[1] != emb_dim:
        raise ValueError(
            f"This prompt is {prompt.shape[1]} wide, the model {emb_dim}: it was tuned for a model "
            "of another size and cannot be used with this one."
        )
    override = override or f"override with {spelled('allow_prompt_mismatch', True)}"
    for what, key, ours in (
        ("weights", FINGERPRINT, fingerprint),
        ("vocabulary", VOCABULARY, vocabulary_hash),
    ):
        theirs = prompt.metadata.get(key)
        if not allow_prompt_mismatch and theirs and ours and theirs != ours:
            raise ValueError(
                f"This prompt was tuned for {made_for} ({what} {theirs[:12]}), which is not the "
                f"model given ({what} {ours[:12]}); elsewhere its numbers mean nothing. Load the "
                f"model it was tuned for, or {override}."
            )
