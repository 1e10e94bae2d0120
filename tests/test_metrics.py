"""Metrics against T5's own numbers, and their edges."""

import warnings

import pytest

from prompt_tuning_jax.data.metrics import get_metric


# Labels 0, 1, 2 and the invalid -1 of T5's evaluation, as text. Numbers made with t5.evaluation.
@pytest.mark.parametrize(
    ("targets", "predictions", "macro", "accuracy"),
    [
        ("0 1 2 0", "0 1 2 0", 100.0, 100.0),
        ("0 1 2 0 1", "0 2 2 0 0", 48.88888888888889, 60.0),
        ("0 1 2 0", "0 -1 2 -1", 55.55555555555555, 50.0),
        ("0 0 1", "0 1 1", 44.44444444444444, 66.66666666666666),
    ],
)
def test_multiclass_scores_are_those_of_t5(targets, predictions, macro, accuracy):
    targets, predictions = targets.split(), predictions.split()
    macro_f1 = get_metric("macro_f1", labels=("0", "1", "2"))
    assert macro_f1(targets, predictions) == pytest.approx({"macro_f1": macro}, abs=1e-9)
    scores = get_metric("accuracy")(targets, predictions)
    assert scores == pytest.approx({"accuracy": accuracy}, abs=1e-9)


@pytest.mark.parametrize(
    ("targets", "predictions", "score"),
    [
        ("0 1 1 0", "0 1 0 0", 66.66666666666666),
        ("0 1 1 0", "0 -1 1 1", 50.0),
        ("1 1", "0 0", 0.0),
    ],
)
def test_f1_is_that_of_t5(targets, predictions, score):
    f1 = get_metric("f1", labels=("0", "1"))
    assert f1(targets.split(), predictions.split()) == pytest.approx({"f1": score}, abs=1e-9)


def test_an_illegal_answer_to_a_negative_is_a_false_positive():
    f1 = get_metric("f1", labels=("no", "yes"))
    assert f1(["no", "yes"], ["perhaps", "yes"])["f1"] == pytest.approx(200 / 3)
    assert get_metric("f1", labels=("no", "yes"), positive="no")(["no"], ["no"])["f1"] == 100


def test_question_answering_scores_are_those_of_t5():
    targets = [["Team A", "team A."], ["1990s"], ["the cat"]]
    predictions = ["team a", "the 1990s decade", "dog"]
    assert get_metric("exact_match")(targets, predictions)["exact_match"] == pytest.approx(100 / 3)
    assert get_metric("token_f1")(targets, predictions)["token_f1"] == pytest.approx(500 / 9)
    assert get_metric("token_f1")(["a b"], ["a b c"])["token_f1"] == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        (" Half of 32.\n#### 16\nThe answer is: 16", 100),
        ("The answer is $16.00.", 100),
        ("The final answer is: 32 / 2!", 100),
        ("The answer is: 15\n\nQuestion: more? The answer is: 16\nor so", 100),
        ("#### 16%", 100),
        ("The answer is: 16 pens", 0),
        ("#### 16\nThe answer is: 17", 0),
        ("The answer is: 16/0", 0),
        ("16", 0),
        ("", 0),
    ],
)
def test_the_answer_of_a_solution_is_what_it_says_last(prediction, score):
    score_of = get_metric("final_answer")
    for target in ("It is 2 * 8.\n#### 16", "The answer is: 16", "16"):
        assert score_of([target], [prediction])["final_answer"] == score


def test_answers_that_are_no_numbers_are_compared_to_the_letter():
    targets = ["The answer is: x^2"] * 3 + ["#### 1,600"] * 2 + ["#### 1/3"]
    predictions = [f"The answer is: {text}" for text in ("x^2", "x^3", "X^2", "1,600", "1600")]
    score = get_metric("final_answer")(targets, [*predictions, "#### 2/6"])["final_answer"]
    assert score == pytest.approx(50)


def test_correlations():
    assert get_metric("pearson")(["1", "2", "3"], ["2", "4", "6.0"])["pearson"] == pytest.approx(
        100
    )
    spearman = get_metric("spearman")(["1", "2", "3"], ["10", "1000", "100"])["spearman"]
    assert spearman == pytest.approx(50)
    assert get_metric("pearson")(["1", "2"], ["words", "nan"])["pearson"] == 0
    matthews = get_metric("matthews")(["a", "b", "a", "b"], ["a", "b", "b", "a"])
    assert matthews["matthews"] == pytest.approx(0)
    assert get_metric("matthews")(["a", "b"], ["a", "b"])["matthews"] == pytest.approx(100)
    with warnings.catch_warnings(action="error"):
        assert get_metric("matthews")(["a", "a"], ["a", "a"])["matthews"] == 0


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        get_metric("acuracy")
    with pytest.raises(ValueError, match="give verbalizers"):
        get_metric("f1")
    with pytest.raises(ValueError, match="not among"):
        get_metric("f1", labels=("no", "yes"), positive="maybe")
    with pytest.raises(ValueError, match="the split is empty"):
        get_metric("accuracy")([], [])
