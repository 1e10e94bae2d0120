"""How good a tuned prompt is: what queries find among documents, or how pairs compare."""

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.data.collection import Collection, Grades, Scored
from prompt_tuning_jax.embedding import EmbeddingModel
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.evaluation.retrieval.metrics import (
    CLUSTERS,
    CORRELATIONS,
    OF_PAIRS,
    SAME,
    USUAL,
    clustered,
    compare_pairs,
    depth_of,
    evaluate,
)
from prompt_tuning_jax.evaluation.retrieval.sides import embed_documents
from prompt_tuning_jax.evaluation.retrieval.store import FILE, Store, save_store
from prompt_tuning_jax.models.embedding import EmbeddingConfig
from prompt_tuning_jax.models.embedding.prompted import pooling_facts
from prompt_tuning_jax.settings.setting import settings_of
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.checks import by_evaluations
from prompt_tuning_jax.tuned_prompt import (
    DOCUMENT_NAME,
    POOL_PROMPT,
    QUERY_NAME,
    SIDE,
    TunedPrompt,
)

Vectors = Mapping[str, np.ndarray]
"""Id -> vector [E]."""


class TextNames(NamedTuple):
    """Which of the model's text prompts stand before both; None for its default one."""

    query: str | None
    document: str | None


def metrics_of(config: TrainConfig, collection: Collection | None = None) -> tuple[str, ...]:
    """Those that are asked for, or the usual ones; the first chooses the best step.

    Of pairs with more than two different scores these are the correlations, and with two how well
    the one is told from the other.
    """
    if config.metric is not None:
        return (config.metric,) if isinstance(config.metric, str) else tuple(config.metric)
    scored = () if collection is None else collection.scored.get(config.eval_split, ())
    kinds = len({pair.score for pair in scored})
    return tuple(CORRELATIONS) if kinds > 2 else (SAME,) if kinds == 2 else USUAL


def check_evaluation(config: TrainConfig, collection: Collection) -> None:
    """Refuses a split that was asked for and is not there; says where nothing is evaluated."""
    usual = settings_of(TrainConfig)["eval_split"].default
    if config.eval_split in collection.grades or config.eval_split != usual:
        metrics = metrics_of(config, collection)
        if any(name not in OF_PAIRS for name in metrics):
            collection.split(config.eval_split)
        compared = [name for name in metrics if name in OF_PAIRS]
        if compared and config.eval_split not in collection.scored:
            raise ValueError(
                f"{spelled('metric')} {compared[0]} compares with the scores of pairs, and "
                f"{config.data_dir} has none in the split {config.eval_split!r}."
            )
        if SAME in compared:
            _check_two(config, collection)
        if CLUSTERS in metrics:
            _labels(collection.split(config.eval_split))
        return
    if (name := by_evaluations(config)) is not None:
        raise ValueError(
            f"{spelled(name)} goes by evaluations, but {config.data_dir} has nothing of the "
            f"split {usual!r}, such as qrels/dev.tsv or pairs in dev.tsv: leave it out."
        )
    warnings.warn(
        f"{config.data_dir} has nothing of the split {usual!r}, such as qrels/dev.tsv or pairs in "
        "dev.tsv: nothing is evaluated, and what is called the best prompt is the last.",
        stacklevel=2,
    )


def _check_two(config: TrainConfig, collection: Collection) -> None:
    kinds = {pair.score for pair in collection.scored[config.eval_split]}
    if len(kinds) != 2:
        raise ValueError(
            f"{spelled('metric')} {SAME} is of pairs that are the same or are not, and those of "
            f"{config.data_dir} have {len(kinds)} different scores: take spearman."
        )


def _labels(grades: Grades) -> list[str]:
    """The one relevant document of each query.

    Raises:
      ValueError: a query has several.
    """
    relevant = {query: [d for d, g in judged.items() if g > 0] for query, judged in grades.items()}
    for query, found in relevant.items():
        if len(found) != 1:
            raise ValueError(
                f"{spelled('metric')} {CLUSTERS} is of texts with a label each, and the query "
                f"{query!r} has {len(found)} relevant documents: take recall@1."
            )
    return [found[0] for found in relevant.values()]


@dataclasses.dataclass(frozen=True)
class RetrievalScoring:
    """The queries of `eval_split`, asked of every document; or its pairs.

    Attributes:
      store: the documents' vectors; None where these are made anew, with the prompt.
      model_config: what makes vectors, which a prompt's file records.
      new_index: where the store is kept once the run begins; None where it came from a file.
    """

    config: TrainConfig
    collection: Collection
    store: Store | None
    name: str
    model_config: EmbeddingConfig
    names: TextNames
    new_index: Path | None = None

    @property
    def metric(self) -> str:
        return self._metrics[0]

    @property
    def can_evaluate(self) -> bool:
        return self.config.eval_split in self.collection.grades

    @property
    def feature_lengths(self) -> Mapping[str, int]:
        return {}

    @functools.cached_property
    def _metrics(self) -> tuple[str, ...]:
        return metrics_of(self.config, self.collection)

    @property
    def _of_pairs(self) -> list[str]:
        return [name for name in self._metrics if name in OF_PAIRS]

    @property
    def _ranked(self) -> list[str]:
        return [name for name in self._metrics if name not in (*OF_PAIRS, CLUSTERS)]

    @functools.cached_property
    def _grades(self) -> Grades:
        if not self._ranked and CLUSTERS not in self._metrics:
            return {}
        grades = self.collection.split(self.config.eval_split)
        return dict(list(grades.items())[: self.config.eval_limit])

    @functools.cached_property
    def _pairs(self) -> Sequence[Scored]:
        if not self._of_pairs:
            return ()
        return self.collection.scored[self.config.eval_split][: self.config.eval_limit]

    def scores(
        self, model: EmbeddingModel, prompt: TunedPrompt | None
    ) -> tuple[dict[str, float], str | None]:
        queries = self._queries(model, prompt, [*self._grades, *(p.query for p in self._pairs)])
        found: dict[str, float] = {}
        if self._ranked:
            asked = np.stack([queries[query] for query in self._grades])
            store = self.store or self._new_store(model, prompt)
            found |= scores_of(asked, self._grades, store, self._ranked)
        if CLUSTERS in self._metrics:
            vectors = np.stack([queries[query] for query in self._grades])
            found[CLUSTERS] = clustered(vectors, _labels(self._grades))
        if self._pairs:
            documents = self._documents(model, prompt, [pair.document for pair in self._pairs])
            one = np.stack([queries[pair.query] for pair in self._pairs])
            other = np.stack([documents[pair.document] for pair in self._pairs])
            golden = [pair.score for pair in self._pairs]
            found |= compare_pairs(one, other, golden, self._of_pairs)
        return {name: found[name] for name in self._metrics}, None

    def _new_store(self, model: EmbeddingModel, prompt: TunedPrompt | None) -> Store:
        ids, texts = map(list, zip(*self.collection.documents.items(), strict=True))
        vectors = self._documents(model, prompt, ids)
        return Store(ids, texts, np.stack([vectors[one] for one in ids]), {})

    @property
    def _how(self) -> dict[str, Any]:
        return {"batch_size": self.config.batch_size, "pool_prompt": self.config.pool_prompt}

    def _queries(
        self, model: EmbeddingModel, prompt: TunedPrompt | None, wanted: Iterable[str]
    ) -> Vectors:
        ids = list(dict.fromkeys(wanted))
        texts = [self.collection.queries[one] for one in ids]
        vectors = model.embed(texts, prompt, name=self.names.query, **self._how)
        return dict(zip(ids, vectors, strict=True))

    def _documents(
        self, model: EmbeddingModel, prompt: TunedPrompt | None, wanted: Iterable[str]
    ) -> Vectors:
        ids = list(dict.fromkeys(wanted))
        if self.store is not None:
            number = {one: row for row, one in enumerate(self.store.ids)}
            return dict(zip(ids, self.store.rows(np.array([number[i] for i in ids])), strict=True))
        texts = [self.collection.documents[one] for one in ids]
        vectors = embed_documents(model, texts, prompt, self.names.document, **self._how)
        return dict(zip(ids, vectors, strict=True))

    def begin(self) -> None:
        """Keeps the documents' vectors, for the runs after this one and for `search`."""
        if self.new_index is not None and not (self.new_index / FILE).is_file():
            save_store(self.store, self.new_index)

    def facts(self) -> Mapping[str, Any]:
        return {
            QUERY_NAME: self.names.query,
            DOCUMENT_NAME: self.names.document,
            SIDE: self.config.sides,
            POOL_PROMPT: self.config.pool_prompt,
            **pooling_facts(self.model_config),
        }


def scores_of(
    queries: Float[np.ndarray, "Q E"],
    grades: Grades,
    store: Store,
    metrics: Sequence[str] = USUAL,
) -> dict[str, float]:
    """What the queries' vectors, in the order of `grades`, find in a store."""
    found = store.search(queries, depth_of(metrics))
    run = {
        query: {store.ids[row]: float(score) for row, score in zip(rows, scores, strict=True)}
        for query, rows, scores in zip(grades, *found, strict=True)
    }
    return evaluate(run, grades, metrics)
