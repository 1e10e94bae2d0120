"""Hard negatives: documents near a query that do not answer it, as the frozen model finds them."""

import numpy as np
from jaxtyping import Float, Int

from prompt_tuning_jax.retrieval.collection import Grades
from prompt_tuning_jax.retrieval.store import Store

MISSING = -1


def mine(
    store: Store,
    queries: Float[np.ndarray, "Q E"],
    grades: Grades,
    depth: int,
    ceiling: float,
) -> Int[np.ndarray, "Q depth"]:
    """For each query of `grades`, in their order, rows of the store that are near and wrong.

    First those that were judged not to answer it, then what nobody judged among the nearest. What
    comes nearer than a share of the best answer's score may answer it too, and is left out (de
    Souza P. Moreira et al. 2024, section 3).

    Args:
      depth: how many are looked at besides the answers; where fewer are left, the row ends in -1.
      ceiling: that share; 1 leaves out only what stands before the answer.
    """
    number = {identifier: row for row, identifier in enumerate(store.ids)}
    answers = [
        {number[document] for document, grade in judged.items() if grade > 0}
        for judged in grades.values()
    ]
    refused = [
        [number[document] for document, grade in judged.items() if grade <= 0]
        for judged in grades.values()
    ]
    most = max(map(len, answers), default=0)
    found = store.search(queries, depth + most)
    mined = np.full((len(queries), depth), MISSING, np.int32)
    for query, vector in enumerate(queries):
        best = max(float(vector @ store.rows(np.array(row))) for row in answers[query])
        limit = best - (1 - ceiling) * abs(best)
        near = [
            int(row)
            for row, score in zip(found.rows[query], found.scores[query], strict=True)
            if score <= limit and row not in answers[query] and row not in refused[query]
        ]
        chosen = (refused[query] + near)[:depth]
        mined[query, : len(chosen)] = chosen
    return mined
