"""Scores of a task: the same whatever the order, the batches and the way they are asked for."""

import json

import numpy as np
import pytest
import tiny

from prompt_tuning_jax import ExampleList, evaluate, save_prompt
from prompt_tuning_jax.commands.evaluate import main
from prompt_tuning_jax.evaluation.scoring import evaluate_task
from prompt_tuning_jax.settings.evaluate_config import EvaluateConfig

FILES = {"input_template": "{text}", "verbalizers": {"0": "yes", "1": "no"}}


@pytest.fixture(scope="module")
def prompt(model):
    return np.random.default_rng(0).normal(size=(5, model.config.emb_dim)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny.save_files(tmp_path_factory.mktemp("files"))


def score(model, task, prompt=None, **options):
    options = {"feature_lengths": tiny.LENGTHS, "batch_size": 8} | options
    return evaluate_task(model, task, "validation", prompt, **options)


def task_of(rows, **changes):
    return tiny.make_task(splits={"validation": ExampleList(rows)}, **changes)


ROWS = list(tiny.make_task().splits["validation"])


def test_scores_are_the_models_own(model, prompt):
    result = score(model, tiny.make_task(), prompt)
    labels, ranked = model.classify(
        [row["inputs"] for row in ROWS], tiny.LABELS, prompt, 8, tiny.LENGTHS["inputs"]
    )
    assert result.predictions == labels
    assert result.targets == [row["targets"] for row in ROWS]
    right = np.mean([p == t for p, t in zip(labels, result.targets, strict=True)])
    np.testing.assert_allclose(result.scores["accuracy"], 100 * right)
    mass = 100 * np.exp(ranked).sum(axis=1).mean()
    np.testing.assert_allclose(result.scores["legal_mass"], mass, rtol=1e-5)


def test_loss_is_the_mean_over_target_tokens(model, prompt):
    _, ranked = model.classify(
        [row["inputs"] for row in ROWS], tiny.LABELS, prompt, 8, tiny.LENGTHS["inputs"]
    )
    of_targets = [ranked[i, tiny.LABELS.index(row["targets"])] for i, row in enumerate(ROWS)]
    tokens = sum(len(model.vocabulary.encode(row["targets"])) + 1 for row in ROWS)
    loss = score(model, tiny.make_task(), prompt).scores["loss"]
    np.testing.assert_allclose(loss, -np.sum(of_targets) / tokens, rtol=1e-5)


def test_order_batches_and_buckets_change_nothing(model, prompt):
    long = {"inputs": " ".join(["the soup was good and"] * 9), "targets": "no"}
    rows = [*ROWS[:6], long]
    lengths = {"inputs": 64, "targets": 4}
    expected = score(model, task_of(rows), prompt, feature_lengths=lengths)
    for other in (
        score(model, task_of(rows[::-1]), prompt, feature_lengths=lengths),
        score(model, task_of(rows), prompt, feature_lengths=lengths, batch_size=4),
    ):
        assert other.scores == pytest.approx(expected.scores, rel=1e-5)
        assert sorted(other.predictions) == sorted(expected.predictions)
    backwards = score(model, task_of(rows[::-1]), prompt, feature_lengths=lengths)
    assert backwards.predictions[::-1] == expected.predictions


def test_token_ids_score_as_their_text(model, prompt):
    def ids(text):
        return np.array([*model.vocabulary.encode(text), 1])

    rows = [{"inputs": ids(row["inputs"]), "targets": ids(row["targets"])} for row in ROWS]
    assert score(model, task_of(rows), prompt) == score(model, task_of(ROWS), prompt)


def test_generated_answers_count_how_many_are_legal(model, prompt):
    result = score(model, tiny.make_task(), prompt, predictions="generate")
    inputs = [row["inputs"] for row in ROWS]
    texts = model.generate(inputs, prompt, max_length=4, batch_size=8, max_input_length=16).texts
    assert result.predictions == texts
    legal = 100 * np.mean([text in tiny.LABELS for text in texts])
    np.testing.assert_allclose(result.scores["legal_share"], legal)
    assert "legal_mass" not in result.scores


def test_a_task_of_free_text_is_generated(model):
    result = score(model, tiny.make_task(verbalizers=None))
    assert result.predictions != []
    assert set(result.scores) == {"accuracy", "loss"}


def test_a_task_without_metrics_has_a_loss(model):
    result = score(model, tiny.make_task(metrics=()))
    assert set(result.scores) == {"loss"}


def test_a_text_prompt_stands_around_every_input(model):
    wrapped = [row | {"inputs": f"we had {row['inputs']} and"} for row in ROWS]
    asked = score(model, task_of(ROWS), text_prompt="we had {input} and")
    assert asked == score(model, task_of(wrapped))
    assert asked.scores["loss"] != score(model, task_of(ROWS)).scores["loss"]


def test_a_limit_takes_the_first_examples(model):
    assert score(model, tiny.make_task(), limit=5) == score(model, task_of(ROWS[:5]))


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({"text_prompt": "Is it good?"}, {}, "{input}"),
        ({"predictions": "guess"}, {}, "predictions.*'guess'"),
        ({"predictions": "rank"}, {"verbalizers": None}, "verbalizers"),
    ],
)
def test_mistakes_are_refused(model, options, changes, words):
    with pytest.raises(ValueError, match=words):
        score(model, tiny.make_task(**changes), **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"feature_lengths": {"inputs": 8}}, "feature_lengths"),
        ({"model_dtype": "bfloat"}, "dtype.*float32 or bfloat16.*'bfloat'"),
    ],
)
def test_wrong_settings_are_named(model_dir, files, options, words):
    with pytest.raises(ValueError, match=words):
        evaluate(model=str(model_dir), data_dir=str(files), **FILES, **options)


class Remembering(str):
    """A target that knows where it comes from, as SeqIO's do; no copy can be made of it."""

    def __new__(cls, text, task, example):
        return super().__new__(cls, text)


def test_targets_of_any_kind_are_written(model_dir, tmp_path):
    rows = [{**row, "target_text": Remembering(row["targets"], "food", row)} for row in ROWS]
    place = tmp_path / "new" / "out.json"
    evaluate(model=str(model_dir), task=task_of(rows), output=str(place))
    assert json.loads(place.read_text())["targets"] == [row["targets"] for row in ROWS]


def test_a_split_that_is_not_there_is_named(model):
    with pytest.raises(ValueError, match="no split 'test'"):
        evaluate_task(model, tiny.make_task(), "test")


# --- the command


def command_options(model_dir, files, prompt):
    paths = {"model": str(model_dir), "data_dir": str(files), "prompt": str(prompt)}
    return {"feature_lengths": tiny.LENGTHS, "batch_size": 8, **paths, **FILES}


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_python_and_command_line_agree(model, model_dir, files, prompt, tmp_path, capsys):
    save_prompt(tmp_path / "p", prompt, fingerprint=model.fingerprint)
    expected = score(model, tiny.make_task(), prompt)
    options = command_options(model_dir, files, tmp_path / "p")
    assert evaluate(**options) == expected
    assert evaluate(EvaluateConfig(**options)) == expected
    main(
        [
            *("--model", str(model_dir), "--data_dir", str(files)),
            *("--prompt", str(tmp_path / "p"), "--output", str(tmp_path / "out.json")),
            *("--input_template", "{text}", "--verbalizers", "0=yes", "1=no", "--batch_size=8"),
            *("--feature_lengths", *(f"{name}={n}" for name, n in tiny.LENGTHS.items())),
        ]
    )
    assert json.loads(capsys.readouterr().out) == pytest.approx(expected.scores, abs=1e-4)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["predictions"] == expected.predictions
    assert written["scores"] == expected.scores


def test_a_prompt_of_another_model_is_refused_unless_asked_for(model_dir, files, prompt, tmp_path):
    save_prompt(tmp_path / "p", prompt, fingerprint="f" * 64, base_model="another")
    options = command_options(model_dir, files, tmp_path / "p")
    with pytest.raises(ValueError, match=r"another.*allow_prompt_mismatch"):
        evaluate(**options)
    evaluate(allow_prompt_mismatch=True, **options)
