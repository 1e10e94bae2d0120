"""Scores of ranked documents, and of pairs, in percent, with the numbers that others give.

`recall@k`, `mrr@k`, `ndcg@k` and `map@k` are trec_eval's recall_k, recip_rank of the first k,
ndcg_cut_k and map_cut_k: a grade above 0 is relevant, the gain of an nDCG is the grade itself
(Järvelin & Kekäläinen 2002), and of equal scores the document whose id sorts last stands first.

`spearman` and `pearson` are correlations of cosines with the scores that people gave to pairs, as
sentence-transformers' EmbeddingSimilarityEvaluator has them; `average_precision` is of pairs that
are the same or are not, ranked by their cosines, as its BinaryClassificationEvaluator has it.

`v_measure` says how well clusters of the queries' vectors go with their labels, the one relevant
document of each (Rosenberg & Hirschberg 2007).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.data.collection import Grades

Run = Mapping[str, Mapping[str, float]]
"""Query id -> document id -> score, of the documents that were found."""
Measure = Callable[[Sequence[int], Sequence[int], int], float]
"""(grades by rank, grades of all that was judged, k) -> from 0 to 1."""


def recall(ranked: Sequence[int], judged: Sequence[int], k: int) -> float:
    """Which share of the relevant documents is among the first k."""
    return sum(grade > 0 for grade in ranked[:k]) / sum(grade > 0 for grade in judged)


def mrr(ranked: Sequence[int], judged: Sequence[int], k: int) -> float:
    """One over the rank of the first relevant document, 0 if it is not among the first k."""
    return next((1 / rank for rank, grade in enumerate(ranked[:k], 1) if grade > 0), 0.0)


def ndcg(ranked: Sequence[int], judged: Sequence[int], k: int) -> float:
    """The grades of the first k, each over log2(rank + 1), relative to the best order's."""
    return _gain(ranked[:k]) / _gain(sorted(judged, reverse=True)[:k])


def average_precision(ranked: Sequence[int], judged: Sequence[int], k: int) -> float:
    """Precision at each relevant document of the first k, summed, over how many are relevant."""
    found, total = 0, 0.0
    for rank, grade in enumerate(ranked[:k], 1):
        if grade > 0:
            found += 1
            total += found / rank
    return total / sum(grade > 0 for grade in judged)


MEASURES: Mapping[str, Measure] = {
    "recall": recall,
    "mrr": mrr,
    "ndcg": ndcg,
    "map": average_precision,
}
USUAL = ("ndcg@10", "recall@1", "recall@10", "recall@100", "mrr@10", "map@100")
CORRELATIONS = {"spearman": "spearmanr", "pearson": "pearsonr"}  # as scipy.stats calls them
SAME = "average_precision"
OF_PAIRS = (*CORRELATIONS, SAME)
CLUSTERS = "v_measure"


def parse_metric(name: str) -> tuple[Measure, int]:
    """ "ndcg@10" -> its measure and 10.

    Raises:
      ValueError: there is no such metric.
    """
    found = re.fullmatch(r"(\w+)@([1-9]\d*)", name)
    if not found or found[1] not in MEASURES:
        raise ValueError(
            f"{name!r} is no metric of retrieval: it is {', '.join(MEASURES)} with a rank, such as "
            f"ndcg@10, or of pairs with scores {', '.join(OF_PAIRS)}, or of labels {CLUSTERS}."
        )
    return MEASURES[found[1]], int(found[2])


def depth_of(metrics: Sequence[str]) -> int:
    """How many documents must be found for these."""
    return max(k for _, k in map(parse_metric, metrics))


def evaluate(run: Run, grades: Grades, metrics: Sequence[str] = USUAL) -> dict[str, float]:
    """The mean of each metric over the queries of `grades`, in percent.

    A query of which nothing was found counts 0; each must have a relevant document.
    """
    measures = {name: parse_metric(name) for name in metrics}
    sums = dict.fromkeys(metrics, 0.0)
    for query, judged in grades.items():
        found = run.get(query, {})
        order = sorted(found, key=lambda document: (found[document], document), reverse=True)
        ranked = [judged.get(document, 0) for document in order]
        for name, (measure, k) in measures.items():
            sums[name] += measure(ranked, list(judged.values()), k)
    return {name: 100 * total / len(grades) for name, total in sums.items()}


def compare_pairs(
    queries: Float[np.ndarray, "n E"],
    documents: Float[np.ndarray, "n E"],
    scores: Sequence[float],
    metrics: Sequence[str],
) -> dict[str, float]:
    """How well the pairs' cosines go with their scores, in percent.

    NaN where either are all alike. Of two different scores the greater says the same.
    """
    import scipy.stats  # slow to import, and rarely needed
    import sklearn.metrics

    lengths = np.linalg.norm(queries, axis=1) * np.linalg.norm(documents, axis=1)
    cosines = np.sum(queries * documents, axis=1) / np.maximum(lengths, 1e-12)
    if len(scores) < 2 or np.ptp(cosines) == 0 or np.ptp(scores) == 0:
        return dict.fromkeys(metrics, math.nan)
    found = {}
    for name in metrics:
        if name == SAME:
            same = np.asarray(scores) == max(scores)
            found[name] = sklearn.metrics.average_precision_score(same, cosines)
        else:
            found[name] = getattr(scipy.stats, CORRELATIONS[name])(cosines, scores).statistic
    return {name: 100 * float(value) for name, value in found.items()}


def clustered(vectors: Float[np.ndarray, "n E"], labels: Sequence[str]) -> float:
    """The V-measure, in percent, of as many clusters as there are labels.

    They are scikit-learn's k-means of the vectors as long as 1, the best of ten starts.
    """
    import sklearn.cluster  # slow to import, and rarely needed
    import sklearn.metrics

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    means = sklearn.cluster.KMeans(len(set(labels)), n_init=10, random_state=0)
    found = means.fit_predict(vectors / np.maximum(lengths, 1e-12))
    return 100 * float(sklearn.metrics.v_measure_score(labels, found))


def _gain(grades: Sequence[int]) -> float:
    gains = (max(grade, 0) / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))
    return sum(gains)
