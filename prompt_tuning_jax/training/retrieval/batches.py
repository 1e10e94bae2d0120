"""Batches of queries, each with a document that answers it and some that do not."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from prompt_tuning_jax.data.encoding import Batch
from prompt_tuning_jax.data.task import epoch_order
from prompt_tuning_jax.retrieval.hard_negatives import MISSING

BATCHES = 16  # whose pairs are put together by length


@dataclasses.dataclass(frozen=True)
class Examples:
    """What batches are made of.

    Attributes:
      queries: a text for each row of `negatives`.
      pairs: (query, row of the store), one for each answer.
      answers: the rows of the store that answer each query.
      negatives: rows of the store that are near each query and wrong, -1 where there are no more.
    """

    queries: Sequence[str]
    pairs: Int[np.ndarray, "n 2"]
    answers: Sequence[frozenset[int]]
    negatives: Int[np.ndarray, "Q depth"]


class RetrievalBatches:
    """Endless batches of B pairs, epoch after epoch, in an order that `seed` decides.

    Queries of like length are together: of the pairs of every 16 batches the shortest are one.
    A batch has the queries' tokens, `documents` [B + B * m, E]: each query's answer, then m hard
    negatives of each, and `allowed` [B, B + B * m], as `contrastive.contrastive_losses` has it.
    Candidates that answer a query are not held against it, whichever query they are there for.

    Args:
      tokenize: texts -> a batch of their tokens.
      vectors: rows of the store -> their vectors.
      hard_negatives: m.
    """

    truncated_inputs = truncated_targets = 0  # what an embedding model does not read is its own

    def __init__(
        self,
        examples: Examples,
        tokenize: Callable[[Sequence[str]], Batch],
        vectors: Callable[[np.ndarray], Float[np.ndarray, "C E"]],
        *,
        batch_size: int,
        hard_negatives: int,
        seed: int,
    ):
        self._examples, self._tokenize, self._vectors = examples, tokenize, vectors
        self._batch_size, self._hard, self._seed = batch_size, hard_negatives, seed
        self._taken = 0
        self._block: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        first, self._taken = self._taken, self._taken + self._batch_size
        queries, answers = self._examples.pairs[self._together(first)].T
        candidates = np.concatenate([answers, self._drawn(queries, first).reshape(-1)])
        batch = self._tokenize([self._examples.queries[query] for query in queries])
        return batch | {
            "documents": self._vectors(np.maximum(candidates, 0)),
            "allowed": self._allowed(queries, candidates),
        }

    def _together(self, first: int) -> np.ndarray:
        """The pairs of a batch."""
        number, start = divmod(first, BATCHES * self._batch_size)
        if self._block[0] != number:
            self._block = number, self._arranged(number)
        return self._block[1][start : start + self._batch_size]

    def _arranged(self, number: int) -> np.ndarray:
        """The pairs of some batches, in the order of these; each is of like lengths."""
        pairs = self._in_order(number * BATCHES * self._batch_size, BATCHES * self._batch_size)
        queries = self._examples.pairs[pairs, 0]
        lengths = [len(self._examples.queries[query]) for query in queries]
        batches = pairs[np.argsort(lengths, kind="stable")].reshape(BATCHES, self._batch_size)
        return np.random.default_rng([self._seed, number, 1]).permutation(batches).reshape(-1)

    def _in_order(self, first: int, count: int) -> np.ndarray:
        """So many pairs, one epoch's after another's."""
        size, numbers = len(self._examples.pairs), []
        while len(numbers) < count:
            epoch, start = divmod(first + len(numbers), size)
            order = epoch_order(size, self._seed, epoch)[start:]
            numbers.extend(order[: count - len(numbers)].tolist())
        return np.array(numbers)

    def _drawn(self, queries: np.ndarray, first: int) -> Int[np.ndarray, "B m"]:
        """m hard negatives of each query, without any twice; -1 where there are not as many."""
        rng = np.random.default_rng([self._seed, first])
        mined = self._examples.negatives[queries]
        order = np.where(mined == MISSING, 2.0, rng.random(mined.shape)).argsort(axis=1)
        return np.take_along_axis(mined, order, axis=1)[:, : self._hard]

    def _allowed(self, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        allowed = np.tile(candidates != MISSING, (len(queries), 1))
        for row, query in enumerate(queries):
            allowed[row, np.isin(candidates, list(self._examples.answers[query]))] = False
            allowed[row, row] = True
        return allowed

    def get_state(self) -> dict[str, Any]:
        """Where the data stands, as JSON values."""
        return {"seed": self._seed, "batch_size": self._batch_size, "taken": self._taken}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from `get_state()`."""
        self._taken = state["taken"]
