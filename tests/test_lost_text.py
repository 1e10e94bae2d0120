"""What a vocabulary loses is counted, told, and never held against a prediction."""

import warnings

import pytest
import tiny
from common import GOLDENS

from prompt_tuning_jax import ExampleList, Task, load_vocabulary
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.data import lost_text
from prompt_tuning_jax.data.lost_text import (
    LostText,
    as_written,
    credited,
    in_words,
    warn_of_lost_text,
)
from prompt_tuning_jax.data.metrics import get_metric
from prompt_tuning_jax.evaluation import scoring
from prompt_tuning_jax.evaluation.answers import Answer


@pytest.fixture(scope="module")
def bundled():
    return load_vocabulary(BUNDLED)


def lost(vocabulary, *examples):
    found = LostText(vocabulary)
    for inputs, targets in examples:
        found.add({"inputs": inputs, "targets": targets})
    return found


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("good film", "good film"),
        ("good  film", "good film"),
        (" good film ", "good film"),
        ("good\u00a0film", "good film"),
        ("good\nfilm", "good film"),
        ("good\tfilm", "good film"),
    ],
)
def test_what_comes_back(bundled, text, back):
    assert as_written(text, bundled) == back
    assert lost(bundled, ("a", text)).changed == (text != back)


def test_unknown_characters_are_counted_by_example(bundled):
    found = lost(
        bundled, ("a \u6f22 b \u6f22", "good"), ("\u6f22\u5b57", "\u5b57"), ("plain", "bad")
    )
    assert found.with_unknown == {"inputs": 2, "targets": 1}
    assert found.unknown["inputs"] == {"\u6f22": 2, "\u5b57": 1}
    assert found.first_unknown == {"inputs": "a \u6f22 b \u6f22", "targets": "\u5b57"}
    assert (found.changed, found.first_changed[0]) == (1, "\u5b57")


def test_a_text_that_spells_the_padding_token_is_told(bundled):
    other = load_vocabulary(GOLDENS / "families" / "resized")
    assert other.pad_id in other.encode("the film <pad> was bad")
    found = lost(other, ("the film <pad> was bad", "yes"), ("a", "<pad>"), ("b", "no"))
    assert found.with_padding == {"inputs": 1, "targets": 1}
    assert found.facts()["padding"]["inputs"] == {"examples": 1, "first": "the film <pad> was bad"}
    said = [sentence for sentence in in_words(found) if "padding token" in sentence]
    assert said[0].startswith("1 of 3 inputs spell the model's padding token")
    assert len(said) == 2
    plain = lost(bundled, ("the film <pad> was bad", "yes"))  # where it is but four characters
    assert plain.with_padding == {"inputs": 0, "targets": 0}


def test_token_ids_have_no_text_to_lose(bundled):
    found = LostText(bundled)
    found.add({"inputs": [5, 6, 1], "targets": [7, 1]})
    found.add({"inputs": [5, 6, 1], "targets": [7, 1], "target_text": "a  b"})
    assert (found.examples, found.changed) == (2, 1)


def test_a_warning_counts_and_shows_the_first_case(bundled):
    rows = [{"inputs": "x", "targets": "good"}] * 3 + [{"inputs": "\u6f22", "targets": "so  good"}]
    task = Task("free", {"train": ExampleList(rows)})
    with pytest.warns(UserWarning, match="of 4") as told:
        warn_of_lost_text(task, ["train"], bundled)
    inputs, targets = (str(each.message) for each in told)
    assert "free, train: 1 of 4 inputs" in inputs
    assert "'\u6f22'" in inputs
    assert "1 of 4 targets" in targets
    assert "'so  good', of which it makes 'so good'" in targets


def test_what_is_whole_is_not_spoken_of(bundled):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = Task("free", {"train": ExampleList([{"inputs": "a", "targets": "good"}])})
        warn_of_lost_text(task, ["train"], bundled)


def test_so_many_examples_are_looked_at(bundled, monkeypatch):
    monkeypatch.setattr(lost_text, "LIMIT", 2)
    rows = [{"inputs": "x", "targets": "good"}] * 2 + [{"inputs": "x", "targets": "so  good"}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_lost_text(Task("free", {"train": ExampleList(rows)}), ["train"], bundled)


def test_predictions_are_compared_with_what_can_be_written(bundled):
    targets = ["so  good", "so bad", "fine\n", "bad", ["a", "b  c"]]
    written = ["so good", "so bad", "fine", "good", "b c"]
    seen, changed = credited(targets, written, None, bundled)
    assert seen == ["so  good", "so bad", "fine\n", "good", "b  c"]
    assert changed == 40.0
    accuracy = get_metric("accuracy")
    assert accuracy(targets[:4], seen[:4]) == {"accuracy": 75.0}


@pytest.mark.parametrize(
    "targets",
    [
        ["\u65e5\u672c", "\u4e2d\u56fd"],
        ["\u65e5\u672c"],
        ["a \u65e5", "b"],
        ["  "],
        ["so  good", "so good", "so\ngood"],
    ],
    ids=["unknown", "one", "in part", "empty", "alike"],
)
def test_what_does_not_tell_targets_apart_is_no_right_answer(bundled, targets):
    written = [as_written(targets[0], bundled)] * len(targets)
    for labels in (None, targets):
        assert credited(targets, written, labels, bundled)[0] == written


def test_labels_that_cannot_be_written_are_recognised(bundled):
    labels = ("very  good", "bad")
    seen, _ = credited(["bad", "very  good"], ["very good", "very good"], labels, bundled)
    assert seen == ["very  good", "very  good"]


def test_an_evaluation_says_how_many_targets_cannot_be_written(model, monkeypatch):
    """And the predictions stay as the model wrote them."""
    rows = [{"inputs": "soup", "targets": "good  soup"}, {"inputs": "cake", "targets": "bad"}]
    task = Task("free", {"validation": ExampleList(rows)}, metrics=(get_metric("accuracy"),))
    written = [Answer("good soup", 0.0), Answer("bad", 0.0)]
    monkeypatch.setattr(scoring, "answer", lambda *_, **__: written)
    found = scoring.evaluate_task(model, task)
    assert found.scores["accuracy"] == 100.0
    assert found.scores["unwritable_targets"] == 50.0
    assert found.predictions == ["good soup", "bad"]
    assert found.targets == ["good  soup", "bad"]


@pytest.mark.parametrize("predictions", ["rank", "generate"])
def test_labels_that_look_alike_are_refused_however_an_answer_is_found(model, predictions):
    rows = ExampleList([{"inputs": "soup", "targets": "\u2600"}])
    task = Task("t", {"validation": rows}, ("\u2600", "\u2601"), (get_metric("accuracy"),))
    with pytest.raises(ValueError, match="are the same tokens to this model"):
        scoring.evaluate_task(model, task, predictions=predictions)


@pytest.mark.slow
def test_training_tells_what_is_lost(model_dir, tmp_path):
    from prompt_tuning_jax import train

    rows = [*tiny.examples(), {"inputs": "soup \u6f22", "targets": "yes"}]
    task = tiny.make_task(splits={"train": ExampleList(rows), "validation": ExampleList(rows[:8])})
    options = {"prompt_length": 2, "batch_size": 8, "train_steps": 1, "quiet": True}
    options |= {"feature_lengths": tiny.LENGTHS, "model": str(model_dir), "model_dir": tmp_path}
    with pytest.warns(UserWarning, match="food, train: 1 of 81 inputs hold characters"):
        train(task=task, **options)
