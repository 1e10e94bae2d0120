"""Hard negatives: documents near a query that do not answer it, as the frozen model finds them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from prompt_tuning_jax.evaluation.retrieval.store import Store

MISSING = -1


def mine(
    store: Store,
    queries: Float[np.ndarray, "Q E"],
    answers: Sequence[frozenset[int]],
    refused: Sequence[Sequence[int]],
    depth: int,
    ceiling: float,
) -> Int[np.ndarray, "Q depth"]:
    """For each query rows of the store that are near and wrong.

    First those that were judged not to answer it, then what nobody judged among the nearest. What
    comes nearer than a share of the best answer's score may answer it too, and is left out (de
    Souza P. Moreira et al. 2024, section 3).

    Args:
      answers, refused: the rows of each query that somebody judged to answer it, or not to.
      depth: how many are looked at besides the answers; where fewer are left, the row ends in -1.
      ceiling: that share; 1 leaves out only what stands before the answer.
    """
    most = max(map(len, answers), default=0)
    found = store.search(queries, depth + most)
    mined = np.full((len(queries), depth), MISSING, np.int32)
    for query, vector in enumerate(queries):
        best = float((store.rows(np.array(list(answers[query]))) @ vector).max())
        limit = best - (1 - ceiling) * abs(best)
        near = [
            int(row)
            for row, score in zip(found.rows[query], found.scores[query], strict=True)
            if score <= limit and row not in answers[query] and row not in refused[query]
        ]
        chosen = [*refused[query], *near][:depth]
        mined[query, : len(chosen)] = chosen
    return mined
