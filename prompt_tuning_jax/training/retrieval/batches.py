"""Batches of queries, each with a document that answers it and some that do not."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from prompt_tuning_jax.data.encoding import Batch
from prompt_tuning_jax.data.task import epoch_order
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.layout import NO_TOKEN
from prompt_tuning_jax.training.retrieval.hard_negatives import MISSING

BATCHES = 16  # whose pairs are put together by length


@dataclasses.dataclass(frozen=True)
class Examples:
    """What batches are made of.

    Attributes:
      queries: a text for each row of `negatives`.
      pairs: (query, row of the store), one for each answer.
      answers: the rows of the store that answer each query, or are it.
      negatives: rows of the store that are near each query and wrong, -1 where there are no more.
      judged: how many of these, the first ones, somebody judged to be wrong.
      documents: the texts of the store's rows, where they pass the prompt too.
    """

    queries: Sequence[str]
    pairs: Int[np.ndarray, "n 2"]
    answers: Sequence[frozenset[int]]
    negatives: Int[np.ndarray, "Q depth"]
    judged: Int[np.ndarray, " Q"]
    documents: Sequence[str] = ()


class RetrievalBatches:
    """Endless batches of B pairs, epoch after epoch, in an order that `seed` decides.

    No query is in a batch twice, and queries of like length are together: the pairs of 16 batches
    are sorted by length and cut into batches. What is left of an epoch and fills no batch is left
    out of it.

    A batch has the queries' tokens, `documents` [B + B * m, E]: each query's answer, then m hard
    negatives of each, and `allowed` [B, B + B * m], as `contrastive.contrastive_losses` has it.
    Where documents pass the prompt too, their tokens are below those of the queries instead.
    A document counts once however often it is there, and not against a query that it answers.

    Args:
      tokenize: texts -> a batch of their tokens.
      vectors: rows of the store -> their vectors; None where documents pass the prompt.
      tokenize_documents: as `tokenize`; None where they do not.
      hard_negatives: m.
    """

    truncated_inputs = truncated_targets = 0  # what an embedding model does not read is its own

    def __init__(
        self,
        examples: Examples,
        tokenize: Callable[[Sequence[str]], Batch],
        vectors: Callable[[np.ndarray], Float[np.ndarray, "C E"]] | None,
        tokenize_documents: Callable[[Sequence[str]], Batch] | None = None,
        *,
        batch_size: int,
        hard_negatives: int,
        seed: int,
    ):
        check_batch_size(batch_size, hard_negatives, examples)
        self._examples, self._tokenize, self._vectors = examples, tokenize, vectors
        self._tokenize_documents = tokenize_documents
        self._batch_size, self._hard, self._seed = batch_size, hard_negatives, seed
        self._epoch, self._position = 0, 0
        self._batches: list[np.ndarray] | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        queries, answers = self._examples.pairs[self._next_pairs()].T
        candidates = np.concatenate([answers, self._drawn(queries).reshape(-1)])
        batch = self._tokenize([self._examples.queries[query] for query in queries])
        rows = np.maximum(candidates, 0)
        if self._vectors is not None:
            batch = batch | {"documents": self._vectors(rows)}
        else:
            texts = [self._examples.documents[row] for row in rows]
            batch = below(batch, self._tokenize_documents(texts))
        return batch | {"allowed": self._allowed(queries, candidates)}

    def _next_pairs(self) -> Int[np.ndarray, " B"]:
        if self._batches is None:
            self._batches = self._batches_of(self._epoch)
        if self._position == len(self._batches):
            self._epoch, self._position = self._epoch + 1, 0
            self._batches = self._batches_of(self._epoch)
        self._position += 1
        return self._batches[self._position - 1]

    def _batches_of(self, epoch: int) -> list[np.ndarray]:
        """The pairs of each batch of an epoch; there is at least one."""
        order = epoch_order(len(self._examples.pairs), self._seed, epoch)
        full: list[np.ndarray] = []
        waiting: list[dict[int, int]] = []  # query -> pair, of batches that are not full
        for start in range(0, len(order), BATCHES * self._batch_size):
            for pair in self._by_length(order[start : start + BATCHES * self._batch_size]):
                query = int(self._examples.pairs[pair, 0])
                batch = next((each for each in waiting if query not in each), None)
                if batch is None:
                    batch = {}
                    waiting.append(batch)
                batch[query] = int(pair)
                if len(batch) == self._batch_size:
                    full.append(np.array(list(batch.values())))
                    waiting.remove(batch)
        np.random.default_rng([self._seed, epoch, 1]).shuffle(full)
        return full

    def _by_length(self, pairs: np.ndarray) -> np.ndarray:
        queries, rows = self._examples.pairs[pairs].T
        lengths = [len(self._examples.queries[query]) for query in queries]
        if self._vectors is None:
            others = [len(self._examples.documents[row]) for row in rows]
            lengths = list(map(max, lengths, others))
        return pairs[np.argsort(lengths, kind="stable")]

    def _drawn(self, queries: np.ndarray) -> Int[np.ndarray, "B m"]:
        """m hard negatives of each query, without any twice; -1 where there are not as many.

        Those that were judged come first.
        """
        rng = np.random.default_rng([self._seed, self._epoch, self._position, 2])
        mined, judged = self._examples.negatives[queries], self._examples.judged[queries]
        keys = rng.random(mined.shape) - (np.arange(mined.shape[1]) < judged[:, None])
        order = np.where(mined == MISSING, 2.0, keys).argsort(axis=1)
        return np.take_along_axis(mined, order, axis=1)[:, : self._hard]

    def _allowed(self, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        is_first = np.zeros(len(candidates), bool)
        is_first[np.unique(candidates, return_index=True)[1]] = True
        allowed = np.tile(is_first & (candidates != MISSING), (len(queries), 1))
        for row, query in enumerate(queries):
            allowed[row, np.isin(candidates, list(self._examples.answers[query]))] = False
            allowed[row, row] = True
        return allowed

    def get_state(self) -> dict[str, Any]:
        """Where the data stands, as JSON values."""
        return {"epoch": self._epoch, "position": self._position}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from `get_state()`."""
        self._epoch, self._position = state["epoch"], state["position"]
        self._batches = None


def below(batch: Batch, other: Batch) -> Batch:
    """The rows of two batches of tokens as one, the shorter filled up with padding."""
    tokens = batch["tokens"], other["tokens"]
    width = max(each.shape[1] for each in tokens)
    padded = [
        np.pad(each, ((0, 0), (0, width - each.shape[1])), constant_values=NO_TOKEN)
        for each in tokens
    ]
    skipped = np.concatenate([batch["skipped"], other["skipped"]])
    return {"tokens": np.concatenate(padded), "skipped": skipped}


def check_batch_size(batch_size: int, hard_negatives: int, examples: Examples) -> None:
    """Refuses, with a ValueError, batches that teach nothing, or that no epoch fills."""
    if min(batch_size, len(examples.queries)) == 1 and not hard_negatives:
        only = "the only one for training" if len(examples.queries) == 1 else "alone in its batch"
        raise ValueError(
            f"A query that is {only} has nothing to be told from, and its loss is 0: set "
            f"{spelled('hard_negatives')}, or have more of them in a batch."
        )
    if batch_size > len(examples.queries):
        raise ValueError(
            f"{spelled('batch_size')} {batch_size} is more than the {len(examples.queries)} "
            "training queries, each of which is in a batch once: lower it."
        )
