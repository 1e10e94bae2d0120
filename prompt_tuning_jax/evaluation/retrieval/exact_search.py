"""The nearest vectors of a store, exactly: every one is compared, a block at a time."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BLOCK = 2**16  # vectors that are compared at once
QUERIES = 256  # of which so many are asked at once


class Found(NamedTuple):
    """What was found for each query, the nearest first.

    Attributes:
      rows: which vectors of the store.
      scores: their inner products with the query.
    """

    rows: Int[np.ndarray, "Q k"]
    scores: Float[np.ndarray, "Q k"]


def nearest(
    queries: Float[np.ndarray, "Q E"],
    vectors: np.ndarray,
    k: int,
    scales: Float[np.ndarray, " N"] | None = None,
) -> Found:
    """The k vectors with the largest inner products; of equal ones, the earlier.

    Args:
      vectors: [N, E], float32, float16 or int8; may be a file that is mapped, which is read once
        for every 256 queries.
      scales: of int8 vectors, what each is multiplied by.

    Raises:
      ValueError: queries and vectors are of different sizes.
    """
    if queries.shape[-1] != vectors.shape[-1]:
        raise ValueError(
            f"The queries have {queries.shape[-1]} numbers and the stored vectors "
            f"{vectors.shape[-1]}: they are of different models."
        )
    k = min(k, len(vectors))
    parts = [
        _of_some(queries[first : first + QUERIES], vectors, k, scales)
        for first in range(0, len(queries), QUERIES)
    ]
    if not parts:
        return Found(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32))
    return Found(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _of_some(queries: np.ndarray, vectors: np.ndarray, k: int, scales: np.ndarray | None) -> Found:
    rows = np.zeros((len(queries), 0), np.int32)
    best = Found(rows, np.zeros(rows.shape, np.float32))
    asked = jnp.asarray(queries, jnp.float32)
    for first in range(0, len(vectors), BLOCK):
        block = jnp.asarray(np.ascontiguousarray(vectors[first : first + BLOCK]))
        scale = None if scales is None else jnp.asarray(scales[first : first + BLOCK])
        found, scores = jax.device_get(_of_block(asked, block, scale, k=min(k, len(block))))
        best = _merged(best, Found(found + first, scores), k)
    return best


@functools.partial(jax.jit, static_argnames="k")
def _of_block(
    queries: Float[Array, "Q E"], block: Array, scales: Float[Array, " N"] | None, *, k: int
) -> tuple[Int[Array, "Q k"], Float[Array, "Q k"]]:
    scores = jnp.einsum("qe,ne->qn", queries, block.astype(jnp.float32), precision="highest")
    if scales is not None:
        scores *= scales[None, :]
    values, rows = jax.lax.top_k(scores, k)
    return rows, values


def _merged(one: Found, other: Found, k: int) -> Found:
    rows, scores = (np.concatenate(both, axis=1) for both in zip(one, other, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Found(*(np.take_along_axis(x, order, axis=1) for x in (rows, scores)))
