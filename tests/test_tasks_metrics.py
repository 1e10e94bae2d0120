"""Postprocessors and metrics of the tasks, against T5's own results."""

import json

import numpy as np
import pytest
from common import GOLDENS, NEEDS_DATA_EXTRA

from prompt_tuning_jax.tasks import metrics, postprocessors

golden = json.loads((GOLDENS / "tasks" / "metrics.json").read_text(encoding="utf-8"))

LABELS = {
    "super_glue/boolq": ("False", "True"),
    "super_glue/cb": ("entailment", "contradiction", "neutral"),
    "super_glue/copa": ("choice1", "choice2"),
    "super_glue/rte": ("entailment", "not_entailment"),
    "super_glue/wic": ("False", "True"),
    "glue/mrpc": ("not_equivalent", "equivalent"),
    "glue/qqp": ("not_duplicate", "duplicate"),
    "glue/sst2": ("negative", "positive"),
}
METRICS = {
    "accuracy": metrics.accuracy,
    "wsc/accuracy": metrics.accuracy,
    "cb/mean_multiclass_f1(num_classes=3)": metrics.multiclass_f1(3),
    "f1_score_with_invalid": metrics.f1,
    "multirc/multirc_f1_over_all_answers": metrics.multirc_f1,
    "multirc/mean_group_metric(all_match)": metrics.multirc_exact_match,
    "record/deduplicate_metric(squad)": metrics.record,
    "squad": metrics.squad,
}


@pytest.mark.parametrize("case", golden["metrics"], ids=lambda case: case["metric"])
def test_metrics_are_those_of_t5(case):
    scores = METRICS[case["metric"]](case["targets"], case["predictions"])
    assert scores == pytest.approx(case["result"], abs=1e-9)


@pytest.mark.parametrize("task", LABELS)
def test_labels_are_read_as_t5_does(task):
    read = postprocessors.label_of(LABELS[task])
    expected = golden["postprocessors"][task]
    assert {text: read(text) for text in expected} == expected


@pytest.mark.parametrize("case", golden["postprocessors"]["wsc_simple"], ids=str)
def test_wsc_matches_words_as_t5_does(case):
    example = {"targets_pretokenized": case["referent"].encode(), "label": np.int64(1)}
    assert postprocessors.wsc(case["prediction"], example=example) == case["result"]
    assert postprocessors.wsc(case["prediction"], example=example, is_target=True) == 1


def test_grouped_targets_are_those_of_t5():
    expected = golden["postprocessors"]
    for case in expected["multirc"]:
        assert postprocessors.multirc(case["pred"]) == case["result"]
    example = {"idx/question": np.int32(7)}
    assert postprocessors.multirc("True", example, is_target=True) == expected["multirc_target"]
    example = {"answers": np.array([b"A", b"B"], object), "idx/passage": 1, "idx/query": 2}
    target = postprocessors.record("A", example, is_target=True)
    assert target == {"value": ["A", "B"], "group": (1, 2)}
    assert postprocessors.record("x") == {"value": "x"}
    assert postprocessors.qa("A", example, is_target=True) == expected["qa"]["target"]
    assert postprocessors.qa("ans", example) == expected["qa"]["pred"]


def test_numbers():
    assert [postprocessors.number(text) for text in ("3.8", "-2", "", "high")] == [3.8, -2, -1, -1]


def test_answers_in_another_tasks_words():
    read = postprocessors.translated(
        "equivalent", "duplicate", postprocessors.label_of(LABELS["glue/qqp"])
    )
    words = ["equivalent", "not_equivalent", "duplicate", "not_duplicate", "yes"]
    assert [read(word) for word in words] == [1, 0, 1, 0, -1]


def test_a_leading_sentinel_is_removed_once():
    read = postprocessors.without_sentinel(postprocessors.label_of(LABELS["glue/sst2"]))
    assert [read(t) for t in ("<extra_id_0> positive", "positive", "<extra_id_0>negative")] == [
        1,
        1,
        0,
    ]
    assert read("<extra_id_0> <extra_id_0> positive") == -1


def test_correlations_are_those_of_the_libraries():
    import scipy.stats
    import sklearn.metrics

    rng = np.random.default_rng(0)
    targets, predictions = rng.normal(size=(2, 30))
    for name in ("pearson", "spearman"):
        expected = 100 * getattr(scipy.stats, f"{name}r")(targets, predictions)[0]
        found = getattr(metrics, f"{name}_corrcoef")(targets.tolist(), predictions.tolist())
        assert found == {f"{name}_corrcoef": pytest.approx(expected)}
    targets, predictions = rng.integers(-1, 2, (2, 30)).tolist()
    expected = 100 * sklearn.metrics.matthews_corrcoef(targets, predictions)
    found = metrics.matthews_corrcoef(targets, predictions)
    assert found == {"matthews_corrcoef": pytest.approx(expected)}


def test_f1_is_scikit_learns_where_every_prediction_is_a_label():
    import sklearn.metrics

    targets, predictions = np.random.default_rng(1).integers(0, 2, (2, 40)).tolist()
    expected = 100 * sklearn.metrics.f1_score(targets, predictions)
    assert metrics.f1(targets, predictions) == {"f1": pytest.approx(expected)}


def test_rouge_agrees_with_its_library_up_to_the_resampling():
    scoring = pytest.importorskip("rouge_score.scoring", reason=NEEDS_DATA_EXTRA)
    from rouge_score import rouge_scorer

    rng = np.random.default_rng(0)
    words = np.array(["the", "cat", "sat", "on", "a", "mat", ".", "dogs", "ran"])
    texts = [" ".join(rng.choice(words, 20)) for _ in range(80)]
    targets, predictions = texts[:40], texts[40:]
    found = metrics.rouge(targets, predictions)
    assert found == metrics.rouge(targets, predictions)
    scorer, aggregator = rouge_scorer.RougeScorer(list(found)), scoring.BootstrapAggregator()
    for target, prediction in zip(targets, predictions, strict=True):
        lines = [text.replace(" . ", " .\n") for text in (target, prediction)]
        aggregator.add_scores(scorer.score(*lines))
    expected = {name: 100 * score.mid.fmeasure for name, score in aggregator.aggregate().items()}
    assert list(found) == ["rouge1", "rouge2", "rougeLsum"]
    assert found == pytest.approx(expected, abs=0.5)
    assert metrics.rouge(targets, targets) == pytest.approx(dict.fromkeys(found, 100))
