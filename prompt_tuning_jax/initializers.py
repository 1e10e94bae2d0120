"""Where a prompt starts (paper sections 2.1 and 3.2).

Each function returns an initialiser: a function `(key, (P, D)) -> [P, D] float32`, which a prompt
module calls. Numbers are the reference implementation's for the same key.

P prompt length   D embed   V vocabulary
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Initializer = Callable[[jax.Array, tuple[int, int]], Float[Array, "P D"]]

# The paper samples from the 5,000 commonest pieces; SentencePiece numbers them by frequency.
PAPER_POPULATION = 5000


@runtime_checkable
class StoredEmbeddings(Protocol):
    """A [V, D] table of which only the rows that are asked for are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(V, D)."""

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Rows of the table."""


Embeddings = Float[Array | np.ndarray, "V D"] | StoredEmbeddings


class Vocabulary(Protocol):
    """What text initialisers ask of a vocabulary: this library's have it, and SeqIO's."""

    def encode(self, text: str, /) -> list[int]:
        """Ids of a text, without EOS."""


def uniform(scale: float = 0.5, symmetric: bool = True) -> Initializer:
    """Uniform in [-scale, scale), the paper's "random uniform" with its 0.5.

    `symmetric=False` draws from [0, scale), as the reference implementation's default does.
    """
    low = -scale if symmetric else 0.0

    def initialize(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "P D"]:
        return jax.random.uniform(key, shape, jnp.float32, low, scale)

    return initialize


def sampled_vocabulary(
    embeddings: Embeddings, population_size: int | None = PAPER_POPULATION
) -> Initializer:
    """Embeddings of tokens drawn from the first `population_size` ids, no token twice.

    Args:
      embeddings: [V, D], the frozen model's table.
      population_size: None, or more than V, means all of the vocabulary. Where it is smaller
        than the prompt length, tokens are drawn with replacement.

    Raises:
      ValueError: the population is empty; the prompt is not as wide as the table.
    """
    if population_size is not None and population_size < 1:
        raise ValueError(f"population_size must be 1 or more, not {population_size}.")
    table = embeddings[:population_size]
    population = table.shape[0]

    def initialize(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "P D"]:
        _check_width(embeddings, shape)
        replace = shape[0] > population
        tokens = jax.random.choice(key, population, (shape[0],), replace)
        return jnp.asarray(table)[tokens].astype(jnp.float32)

    return initialize


def class_labels(
    embeddings: Embeddings,
    vocabulary: Vocabulary,
    labels: Sequence[str],
    fallback: Initializer | None = None,
) -> Initializer:
    """Row i is the embedding of label i, averaged over its pieces.

    Args:
      labels: the task's verbalizers, such as ["positive", "negative"]. Those past the prompt's
        length are left out.
      fallback: fills the rows after the labels; by default `sampled_vocabulary`.

    Raises:
      ValueError: a label without tokens; the prompt is not as wide as the table.
    """
    pieces = [_encode(vocabulary, label, f"Label {label!r}") for label in labels]
    rows = [jnp.mean(_lookup(embeddings, ids), axis=0) for ids in pieces]
    return _starting_with(embeddings, rows, "labels", fallback)


def text(
    embeddings: Embeddings,
    vocabulary: Vocabulary,
    text: str,
    fallback: Initializer | None = None,
) -> Initializer:
    """The embeddings of a text's tokens, one row each; a hand-written prompt to start from.

    Args:
      text: such as "Is this review positive or negative?". Tokens past the prompt's length are
        left out.
      fallback: fills the rows after the text; by default `sampled_vocabulary`.

    Raises:
      ValueError: a text without tokens; the prompt is not as wide as the table.
    """
    rows = list(_lookup(embeddings, _encode(vocabulary, text, "The text to start from")))
    return _starting_with(embeddings, rows, "tokens", fallback)


def _starting_with(
    embeddings: Embeddings,
    rows: Sequence[jax.Array],
    what: str,
    fallback: Initializer | None,
) -> Initializer:
    """`rows` first, the rest from `fallback`."""
    fallback = fallback or sampled_vocabulary(embeddings)

    def initialize(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "P D"]:
        _check_width(embeddings, shape)
        kept = jnp.stack(rows[: shape[0]])
        if len(rows) > shape[0]:
            logging.warning(
                "The prompt has %d rows for %d %s; the last %d are left out.",
                shape[0], len(rows), what, len(rows) - shape[0],
            )  # fmt: skip
        return fallback(key, shape).at[: len(kept)].set(kept)

    return initialize


def _encode(vocabulary: Vocabulary, words: str, what: str) -> list[int]:
    tokens = vocabulary.encode(words)
    if not tokens:
        raise ValueError(f"{what} has no tokens in this vocabulary.")
    return tokens


def _lookup(embeddings: Embeddings, tokens: list[int]) -> Float[Array, "pieces D"]:
    """The tokens' rows of the table, float32."""
    return jnp.asarray(embeddings[np.asarray(tokens)], jnp.float32)


def _check_width(embeddings: Embeddings, shape: tuple[int, int]) -> None:
    if embeddings.shape[1] != shape[1]:
        raise ValueError(
            f"The embedding table is {embeddings.shape[1]} wide, the prompt {shape[1]}: use the "
            "table of the model that the prompt is for."
        )
