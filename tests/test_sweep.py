"""A sweep over settings: its grid, its jobs, halving, and what it leaves behind."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.adapters.adapter_file import load_adapter
from prompt_tuning_jax.commands.cli import main
from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.training.monitor import NotFiniteError
from prompt_tuning_jax.training.sweep.grid import jobs_of, trials_of, values_of
from prompt_tuning_jax.training.sweep.report import Outcome, rows_of


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.own_model(tmp_path_factory.mktemp("t5"))


# --- the grid


def test_a_grid_is_every_combination_and_shared_settings_make_jobs():
    grid = {"learning_rate": "0.1,0.3", "optimizer": "adafactor,adamw", "seed": "0,1,2"}
    values = values_of(grid)
    assert values["learning_rate"] == [0.1, 0.3]
    assert values["seed"] == [0, 1, 2]
    trials = trials_of(values)
    assert len({trial.name for trial in trials}) == 12
    assert [len(job) for job in jobs_of(trials)] == [6, 6]
    assert {trial.settings["optimizer"] for trial in jobs_of(trials)[0]} == {"adafactor"}
    assert values_of({"learning_rate": [0.1, None]}) == {"learning_rate": [0.1, None]}


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({}, "grid is empty"),
        ({"learning_rat": "1"}, "did you mean learning_rate"),
        ({"task": "a,b"}, "of one task"),
        ({"eval_limit": "10,20"}, "eval_limit cannot be swept"),
        ({"learning_rate": "fast"}, "learning_rate must be a number"),
        ({"learning_rate": "0.1,-1"}, "at least 0"),
        ({"optimizer": "sgd"}, "adafactor, adamw"),
        ({"seed": "1,1"}, "twice"),
    ],
)
def test_a_grid_that_is_none_is_refused(grid, words):
    with pytest.raises(UsageError, match=words):
        values_of(grid)


def outcome(settings, *scores, metric="accuracy"):
    curve = tuple((2 * i, score) for i, score in enumerate(scores))
    return Outcome(settings, None, metric, curve)


def test_rows_are_ranked_by_the_mean_over_seeds_and_then_by_the_worst():
    found = [outcome({"learning_rate": 1.0, "seed": s}, x) for s, x in enumerate((99.0, 50.0))]
    found += [outcome({"learning_rate": 0.3, "seed": s}, x) for s, x in enumerate((80.0, 80.0))]
    found += [outcome({"learning_rate": 0.1, "seed": s}, x) for s, x in enumerate((90.0, 70.0))]
    found += [
        outcome({"learning_rate": 9.0, "seed": 0}),
        outcome({"learning_rate": 9.0, "seed": 1}, 99.0),
    ]
    assert [row.settings["learning_rate"] for row in rows_of(found)] == [0.3, 0.1, 1.0, 9.0]


def test_a_loss_is_better_when_it_is_less():
    rows = rows_of([outcome({"a": i}, x, 2.0, metric="loss") for i, x in enumerate((1.0, 0.5))])
    assert [row.outcomes[0].score for row in rows] == [0.5, 1.0]


# --- the sweep


@pytest.mark.slow
def test_a_sweep_keeps_the_best_prompt_and_goes_on_where_it_was(model, tmp_path):
    grid = {"learning_rate": [1e-6, 0.3], "prompt_length": [4, 6]}
    found = pt.sweep(grid, **tiny.own_run(model, tmp_path / "sweep", prompt_length=5))
    told = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert len(told["rows"]) == 4
    scores = [row["trials"][0]["score"] for row in told["rows"]]
    assert scores == sorted(scores, reverse=True)
    assert told["rows"][0]["settings"] == found.settings
    assert found.prompt.shape == (found.settings["prompt_length"], model.config.emb_dim)
    best = tmp_path / "sweep" / told["rows"][0]["trials"][0]["directory"] / "best"
    np.testing.assert_array_equal(found.prompt.values, pt.load_prompt(best).values)
    assert (tmp_path / "sweep" / "sweep.png").read_bytes().startswith(b"\x89PNG")

    shutil.rmtree(tmp_path / "sweep" / "best")
    again = pt.sweep(grid, **tiny.own_run(model, tmp_path / "sweep", prompt_length=5))
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text()) == told
    np.testing.assert_array_equal(again.prompt.values, found.prompt.values)


@pytest.mark.slow
def test_a_sweep_of_another_method_keeps_its_best_adapter(model, tmp_path):
    run = tiny.own_run(model, tmp_path / "sweep", method="ia3")
    del run["prompt_length"]
    found = pt.sweep({"learning_rate": [0.001, 0.1]}, **run)
    assert found.prompt is None
    best = max(found.rows[0].outcomes, key=lambda outcome: outcome.rank)
    kept, theirs = (
        load_adapter(folder, model.config).leaves
        for folder in (found.directory, best.directory / "best")
    )
    assert kept.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(kept[name], values)


def test_the_worse_half_ends_and_the_others_are_as_without_it(model, tmp_path):
    rates = {"a": 1e-9, "b": 0.3, "c": 0.5, "d": 1e-8}
    runs = {name: {"learning_rate": rate} for name, rate in rates.items()}
    runs["b"]["seed"] = runs["c"]["seed"] = 3
    whole = pt.train_many(runs, **tiny.own_run(model, tmp_path / "whole"))
    halved = pt.train_many(runs, **tiny.own_run(model, tmp_path / "halved", halve_at=[2]))
    first = {name: result.history[0]["accuracy"] for name, result in whole.items()}
    went_on = [name for name, result in halved.items() if len(result.history) == 2]
    assert len(went_on) == 2
    others = [first[name] for name in runs if name not in went_on]
    assert min(first[name] for name in went_on) >= max(others)
    for name in went_on:
        np.testing.assert_allclose(halved[name].prompt.values, whole[name].prompt.values, atol=2e-5)
    again = pt.train_many(runs, **tiny.own_run(model, tmp_path / "halved", halve_at=[2]))
    assert {name: len(result.history) for name, result in again.items()} == {
        name: len(result.history) for name, result in halved.items()
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"halve_at": [3]}, "no step of an evaluation"),
        ({"halve_at": [4]}, "have ended by then: the longest has train_steps 4"),
        ({"halve_at": [2], "runs": {"a": {"data_dir": "x"}, "b": {}}}, "data of its own"),
        ({"halve_at": [2], "runs": {"a": {"eval_limit": 9}, "b": {}}}, "data of its own"),
    ],
)
def test_halving_that_cannot_be_is_refused(model, tmp_path, changes, words):
    runs = changes.pop("runs", {"a": {}, "b": {"seed": 1}})
    with pytest.raises(ValueError, match=words):
        pt.train_many(runs, **tiny.own_run(model, tmp_path / "run", **changes))


def test_halving_goes_by_evaluations_of_several_runs(model, tmp_path):
    unscored = tiny.make_task()
    unscored = dataclasses.replace(unscored, splits={"train": unscored.splits["train"]})
    given = tiny.own_run(model, tmp_path / "run", halve_at=[2])
    with pytest.raises(ValueError, match=r"halve_at is between several runs"):
        pt.train(**given)
    with pytest.raises(ValueError, match=r"halve_at goes by evaluations.*no validation split"):
        pt.train_many({"a": {}, "b": {"seed": 1}}, **(given | {"task": unscored}))


def test_all_jobs_are_checked_before_the_first_trains(model, tmp_path):
    given = tiny.own_run(model, tmp_path / "sweep")
    with pytest.raises(ValueError, match=r"batch_size 4 does not divide into microbatches 3"):
        pt.sweep({"microbatches": [2, 3]}, **given)
    assert not (tmp_path / "sweep" / "job0" / "state").exists()


def test_where_every_trial_breaks_there_is_no_best(model, tmp_path):
    given = tiny.own_run(model, tmp_path / "sweep", eval_period=4)
    with pytest.raises(NotFiniteError, match="No trial came to a score: lower learning_rate"):
        pt.sweep({"learning_rate": [1e38, 3e38]}, **given)
    assert (tmp_path / "sweep" / "sweep.json").exists()
    assert not (tmp_path / "sweep" / "best").exists()


def test_trials_do_not_start_at_one_another(model, tmp_path):
    given = tiny.own_run(model, tmp_path / "runs" / "sweep")
    with pytest.raises(ValueError, match="would start at one another's prompts"):
        pt.sweep({"prompt_init": [f"nearest:{tmp_path / 'runs'}"]}, **given)


@pytest.mark.slow
def test_from_the_command_line(tmp_path, capsys):
    model = tiny.save_model(tmp_path / "t5", tiny.make_vocabulary())
    data = tiny.save_files(tmp_path / "data")
    given = f"--model {model} --data_dir {data} --model_dir {tmp_path / 'sweep'} --quiet"
    given += " --prompt_length 4 --train_steps 2 --eval_period 2 --batch_size 4"
    words = ["--input_template", "{text}", "--verbalizers", "0=yes", "1=no"]
    words += ["--feature_lengths", "inputs=16", "targets=4"]
    main(["sweep", *given.split(), *words, "--grid", "learning_rate=0.1,0.3", "seed=0,1"])
    out, told = capsys.readouterr()
    best = json.loads(out)  # and nothing else: the runs' logs are no part of the result
    assert best["settings"]["learning_rate"] in (0.1, 0.3)
    assert "step 2" in told
    assert "learning_rate" in told
    assert "worst seed" in told
    assert pt.load_prompt(tmp_path / "sweep" / "best").shape[0] == 4
