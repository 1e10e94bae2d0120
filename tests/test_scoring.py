"""Scores of many prompts at once: those of each prompt alone."""

import json

import numpy as np
import pytest
import tiny

from prompt_tuning_jax import ExampleList, TunedPrompt, evaluate, load_bank, save_prompt
from prompt_tuning_jax.banks import TunedBank
from prompt_tuning_jax.commands.evaluate import main
from prompt_tuning_jax.evaluation.scoring import evaluate_ensemble, evaluate_task, evaluate_tasks

HOW = {"feature_lengths": tiny.LENGTHS, "batch_size": 8}
FILES = {"input_template": "{text}", "verbalizers": {"0": "yes", "1": "no"}}


def prompt(length, seed, layout="prefix"):
    values = np.random.default_rng(seed).normal(size=(length, 16)).astype(np.float32)
    return TunedPrompt(values, layout)


BANK = TunedBank({"food": prompt(5, 0), "drink": prompt(2, 1, "suffix"), "free": prompt(3, 2)})


def same(one, other):
    assert one.targets == other.targets
    assert one.predictions == other.predictions
    assert one.scores == pytest.approx(other.scores, rel=1e-4)


@pytest.fixture(scope="module")
def tasks():
    rows = list(tiny.make_task().splits["train"])
    return {
        "food": tiny.make_task(),
        "drink": tiny.make_task(
            splits={"validation": ExampleList(rows[:7])}, verbalizers=("good", "no", "yes")
        ),
        "free": tiny.make_task(splits={"validation": ExampleList(rows[9:14])}, verbalizers=None),
    }


def test_each_task_scores_as_with_its_prompt_alone(model, tasks):
    together = evaluate_tasks(model, tasks, BANK, **HOW)
    assert list(together) == ["food", "drink", "free"]
    for name, task in tasks.items():
        same(together[name], evaluate_task(model, task, prompt=BANK.prompts[name], **HOW))


@pytest.mark.slow
@pytest.mark.parametrize("predictions", ["rank", "generate"])
def test_members_score_as_alone(model, predictions):
    how = HOW | {"predictions": predictions}
    result = evaluate_ensemble(model, tiny.make_task(), BANK, **how)
    for name, one in BANK.prompts.items():
        same(result.members[name], evaluate_task(model, tiny.make_task(), prompt=one, **how))
    accuracies = {name: member.scores["accuracy"] for name, member in result.members.items()}
    assert accuracies[result.best] == max(accuracies.values())
    assert result.mean["accuracy"] == pytest.approx(np.mean(list(accuracies.values())))
    same(
        result.ensemble,
        evaluate_task(model, tiny.make_task(), prompt=BANK.ensemble(), **how),
    )


def test_a_vote_needs_a_majority(model):
    """Three copies of one prompt outvote two of another."""
    one, other = BANK.prompts["food"], BANK.prompts["drink"]
    bank = TunedBank({"a": one, "b": other, "c": one, "d": other, "e": one})
    result = evaluate_ensemble(model, tiny.make_task(), bank, **HOW)
    for score in ("loss", "legal_mass"):  # however much members disagree
        mean = np.mean([member.scores[score] for member in result.members.values()])
        assert result.ensemble.scores[score] == pytest.approx(mean, rel=1e-5)
    assert result.ensemble.predictions == result.members["a"].predictions
    assert result.ensemble.predictions != result.members["b"].predictions


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The food task as files whose records name a prompt, and the prompts."""
    root = tmp_path_factory.mktemp("many")
    tiny.save_files(root / "data")
    path = root / "data" / "validation.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    names = ["food", "drink", "drink", "food", "food"]
    with path.open("w") as file:
        for i, row in enumerate(rows):
            file.write(json.dumps(row | {"prompt": names[i % 5]}) + "\n")
    for name in ("food", "drink"):
        save_prompt(root / name, BANK.prompts[name])
    return root


def options(model_dir, files):
    paths = {name: str(files / name) for name in ("food", "drink")}
    return {"model": str(model_dir), "data_dir": str(files / "data"), "prompts": paths, **FILES}


def test_records_name_their_prompts(model, model_dir, files):
    result = evaluate(prompt_field="prompt", **options(model_dir, files), **HOW)
    path = files / "data" / "validation.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    bank = load_bank({name: files / name for name in ("food", "drink")})
    assert set(result) == {"food", "drink"}
    for name, evaluation in result.items():
        texts = [row["text"] for row in rows if row["prompt"] == name]
        answers = model.classify(texts, ["yes", "no"], bank.prompts[name], 8, 16).labels
        assert evaluation.predictions == answers


def test_prompts_of_a_task_are_an_ensemble(model, model_dir, files):
    result = evaluate(**options(model_dir, files), **HOW)
    bank = load_bank({name: files / name for name in ("food", "drink")})
    expected = evaluate_ensemble(model, tiny.make_task(), bank, **HOW)
    same(result.ensemble, expected.ensemble)


def test_the_command_shows_members_mean_best_and_ensemble(model_dir, files, tmp_path, capsys):
    arguments = [
        *("--model", str(model_dir), "--data_dir", str(files / "data")),
        *("--input_template", "{text}", "--verbalizers", "0=yes", "1=no"),
        *("--prompts", str(files / "food"), str(files / "drink"), "--batch_size", "8"),
        *("--feature_lengths", *(f"{name}={length}" for name, length in tiny.LENGTHS.items())),
    ]
    main([*arguments, f"--output={tmp_path / 'out.json'}"])
    out, err = capsys.readouterr()
    scores = json.loads(out)
    assert set(scores) == {"members", "mean", "best", "ensemble"}
    assert set(scores["members"]) == {"food", "drink"}
    mean = np.mean([member["accuracy"] for member in scores["members"].values()])
    assert scores["mean"]["accuracy"] == pytest.approx(mean, abs=1e-3)
    for row in ("food", "drink", "mean", "best", "ensemble"):
        assert row in err
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["ensemble"]["predictions"]) == 20
    main([*arguments, "--prompt_field=prompt"])
    assert set(json.loads(capsys.readouterr().out)) == {"food", "drink"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "x"}, "either prompt, or prompts"),
        ({"prompts": None, "prompt_field": "prompt"}, "prompt_field needs prompts"),
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": "runs/a"}, "prompts must be a mapping or a list"),
        ({"prompt_field": "prompted"}, "'prompted'"),
        ({"prompt_field": "text"}, "names the prompt .* there are food, drink"),
        ({"data_dir": None, "task": "bundled_topic", "prompt_field": "x"}, "field 'x'.*data_dir"),
        ({"data_dir": None}, "'food' is no bundled task"),
    ],
)
def test_mistakes_are_named(model_dir, files, changes, words):
    with pytest.raises(ValueError, match=words):
        evaluate(**options(model_dir, files) | changes)


def test_the_prompt_that_does_not_fit_is_named(model_dir, files, tmp_path):
    save_prompt(tmp_path / "p", prompt(2, 0), fingerprint="f" * 64)
    given = options(model_dir, files)
    given["prompts"] = given["prompts"] | {"stranger": str(tmp_path / "p")}
    with pytest.raises(ValueError, match=r"Prompt 'stranger'.*allow_prompt_mismatch"):
        evaluate(**given)


def test_a_task_without_metrics_makes_no_ensemble(model):
    with pytest.raises(ValueError, match="no metrics"):
        evaluate_ensemble(model, tiny.make_task(metrics=()), BANK, **HOW)
