"""How good a tuned query side is: what it finds among the stored documents."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning_jax.data.collection import Collection, Grades
from prompt_tuning_jax.embedding import EmbeddingModel
from prompt_tuning_jax.evaluation.retrieval.metrics import USUAL, depth_of, evaluate
from prompt_tuning_jax.evaluation.retrieval.store import Store
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.tuned_prompt import TunedPrompt


def metrics_of(config: TrainConfig) -> tuple[str, ...]:
    """Those that are asked for, or the usual ones; the first chooses the best step."""
    if config.metric is None:
        return USUAL
    return (config.metric,) if isinstance(config.metric, str) else tuple(config.metric)


@dataclasses.dataclass(frozen=True)
class RetrievalScoring:
    """The queries of `eval_split`, asked of every document."""

    config: TrainConfig
    collection: Collection
    store: Store
    name: str
    query_name: str | None

    @property
    def metric(self) -> str:
        return metrics_of(self.config)[0]

    @property
    def can_evaluate(self) -> bool:
        return self.config.eval_split in self.collection.grades

    @property
    def feature_lengths(self) -> Mapping[str, int]:
        return {}

    @functools.cached_property
    def _grades(self) -> Grades:
        grades = self.collection.split(self.config.eval_split)
        return dict(list(grades.items())[: self.config.eval_limit])

    def scores(
        self, model: EmbeddingModel, prompt: TunedPrompt | None
    ) -> tuple[dict[str, float], str | None]:
        queries = [self.collection.queries[query] for query in self._grades]
        how = {"name": self.query_name, "batch_size": self.config.batch_size}
        vectors = model.embed(queries, prompt, pool_prompt=self.config.pool_prompt, **how)
        return scores_of(vectors, self._grades, self.store, metrics_of(self.config)), None

    def facts(self) -> Mapping[str, Any]:
        names = {"query_name": self.query_name, "document_name": self.store.facts["name"]}
        return {**names, "pool_prompt": self.config.pool_prompt}


def scores_of(
    queries: np.ndarray, grades: Grades, store: Store, metrics: Sequence[str] = USUAL
) -> dict[str, float]:
    """What the queries' vectors [Q, E], in the order of `grades`, find in a store."""
    found = store.search(queries, depth_of(metrics))
    run = {
        query: {store.ids[row]: float(score) for row, score in zip(rows, scores, strict=True)}
        for query, rows, scores in zip(grades, *found, strict=True)
    }
    return evaluate(run, grades, metrics)
