"""Which vectors a prompt asks for: documents' own, or those that documents have behind it too."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.embedding import EmbeddingModel
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.evaluation.retrieval.store import PROMPT, Store
from prompt_tuning_jax.models.embedding.config import BOTH, QUERY
from prompt_tuning_jax.tuned_prompt import POOL_PROMPT, SIDE, TunedPrompt


def embed_documents(
    model: EmbeddingModel,
    texts: Sequence[str],
    prompt: TunedPrompt | None = None,
    name: str | None = None,
    **options: Any,
) -> Float[np.ndarray, "N E"]:
    """Documents' vectors.

    Args:
      prompt: one of both sides. What its file says of text prompts is of queries, and not heeded.
      name: of the model's text prompt that stands before documents.
      options: as of `EmbeddingModel.embed`.

    Raises:
      ValueError: the model's query side is tuned within, by an adapter.
    """
    if model.adapter is not None:
        raise ValueError(
            "This model has an adapter of its query side, and documents keep the vectors that they "
            "have without it: embed them with the model alone."
        )
    before = model.text_prompts.before(name, None)
    return model.embed(texts, prompt, text_prompt=before, **options)


def digest_of(prompt: TunedPrompt) -> str:
    """What tells vectors that were made with a prompt from those of others."""
    hashed = hashlib.sha256(prompt.values.tobytes())
    facts = prompt.shape, prompt.layout, prompt.visibility, prompt.metadata.get(POOL_PROMPT)
    hashed.update(repr(facts).encode())
    return hashed.hexdigest()


def check_documents(prompt: TunedPrompt, path: str | os.PathLike[str]) -> None:
    """Refuses, with a ValueError, a prompt that is for queries alone, before documents."""
    if prompt.metadata.get(SIDE) == QUERY:
        raise ValueError(
            f"{path} was tuned for queries, and documents keep the vectors that they have without "
            f"it: make the index without {spelled('prompt')}, and give it to `search`."
        )


def check_search(
    store: Store, prompt: TunedPrompt | None, index: str | os.PathLike[str], path: Any = None
) -> None:
    """Refuses, with a ValueError, to ask an index with another prompt than its documents need.

    Args:
      index, path: what errors call the store and the prompt.
    """
    made_with = store.facts.get(PROMPT)
    if made_with is None:
        if prompt is not None and prompt.metadata.get(SIDE) == BOTH:
            raise ValueError(
                f"{path} was tuned for queries and documents, and the documents of {index} were "
                f"embedded without it: give it to `prompt-tuning index` ({spelled('prompt')}) too."
            )
    elif prompt is None or digest_of(prompt) != made_with:
        other = "no prompt" if prompt is None else f"another, {path}"
        raise ValueError(
            f"The documents of {index} were embedded with a prompt, and the queries would be with "
            f"{other}: give the same one ({spelled('prompt')}), or make another index."
        )
