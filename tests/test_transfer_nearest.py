"""A run that starts at the prompts of other tasks which are nearest to its own."""

import shutil

import jax
import numpy as np
import pytest
import tiny
from causal_models import MODELS
from common import slow

from prompt_tuning_jax import TunedPrompt, load_model, load_prompt, save_prompt, train, train_many
from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.training import set_up
from prompt_tuning_jax.training.transfer import nearest
from prompt_tuning_jax.training.transfer.nearest import Nearest, parse
from prompt_tuning_jax.training.transfer.similarity import similarity
from prompt_tuning_jax.training.transfer.sources import Source

pytestmark = pytest.mark.usefixtures("one_device")


def values(seed, length=5, width=16):
    return np.random.default_rng(seed).normal(size=(length, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("nearest:runs", Nearest("runs", 1)),
        ("nearest:gs/runs:3", Nearest("gs/runs", 3)),
        ("nearest:a:b", Nearest("a:b", 1)),
        ("nearest", None),
        ("text: nearest:runs", None),
        (None, None),
        (tiny.make_task, None),
    ],
)
def test_what_the_setting_says(spec, expected):
    assert parse(spec) == expected


@pytest.mark.parametrize("spec", ["nearest:", "nearest:runs:0", "nearest:runs:-1"])
def test_what_it_cannot_say(spec):
    with pytest.raises(UsageError, match="write nearest:FOLDER"):
        parse(spec)


def sources(*prompts):
    return [Source(f"{i}", f"at/{i}", TunedPrompt(each)) for i, each in enumerate(prompts)]


def test_the_nearest_or_a_mean_of_them_by_similarity():
    embedding, noise = values(0), values(1)
    found = sources(noise, embedding + noise, 2 * embedding, -embedding)
    start = nearest.nearest_start(Nearest("x"), found, embedding, 7)
    np.testing.assert_array_equal(start.values, 2 * embedding)
    (only,) = start.record["prompts"]
    assert (only["name"], only["weight"]) == ("2", 1)
    assert only["similarity"] == pytest.approx(1, abs=1e-6)

    three = nearest.nearest_start(Nearest("x", 3), found, embedding, 7)
    near = [similarity(embedding, x) for x in (2 * embedding, embedding + noise, noise)]
    shares = np.maximum(near, 0) / np.maximum(near, 0).sum()
    by_hand = shares @ np.stack([2 * embedding, embedding + noise, noise]).reshape(3, -1)
    np.testing.assert_allclose(three.values, by_hand.reshape(5, 16), rtol=1e-5, atol=1e-5)
    weights = [one["weight"] for one in three.record["prompts"]]
    assert weights == pytest.approx(shares, abs=1e-6)
    assert "2 (similarity 1.000, weight" in nearest.told(three.record)
    assert "nearest of 4 in x to this task's prompt after 7 steps" in nearest.told(three.record)


def test_what_points_away_counts_for_nothing():
    embedding = values(0)
    start = nearest.nearest_start(
        Nearest("x", 2), sources(-embedding, -2 * embedding), embedding, 7
    )
    np.testing.assert_array_equal(start.values, -embedding)


# --- which prompts are compared


def check(prompt):
    if prompt.metadata.get("base_model_fingerprint") == "other":
        raise ValueError("another model's")


@pytest.fixture
def folder(tmp_path):
    for name, seed in (("a", 0), ("b", 1), ("c/best", 2)):
        save_prompt(tmp_path / "prompts" / name, values(seed), fingerprint="mine")
    save_prompt(tmp_path / "prompts" / "long", values(3, 8), fingerprint="mine")
    save_prompt(tmp_path / "prompts" / "other", values(4), fingerprint="other")
    return tmp_path / "prompts"


def test_those_of_the_model_and_length_and_not_of_the_run_itself(folder):
    def names(length=5, own=folder / "d"):
        found = nearest.candidates(Nearest(str(folder)), length, own, check)
        return [source.name for source in found]

    assert names() == ["a", "b", "c"]
    assert names(length=8) == ["long"]
    assert names(own=folder / "c") == ["a", "b"]


@pytest.mark.parametrize(
    ("count", "length", "message"),
    [
        (1, 6, r"have 5, 8 rows: set prompt_length=5, it is 6"),
        (4, 5, r"the mean of 4 is asked for, but 3 of the prompts there are of this model"),
    ],
)
def test_no_such_prompts(folder, count, length, message):
    with pytest.raises(ValueError, match=message):
        nearest.candidates(Nearest(str(folder), count), length, folder / "d", check)


def test_only_prompts_of_other_models(folder):
    for name in ("a", "b", "c", "long"):
        shutil.rmtree(folder / name)
    with pytest.raises(ValueError, match="none of the 1 prompts there is of this model"):
        nearest.candidates(Nearest(str(folder)), 5, folder / "d", check)


# --- the run


@pytest.fixture(scope="module", params=["t5", slow("causal")])
def frozen(request, model):
    return model if request.param == "t5" else load_model(MODELS["qwen3"])


@pytest.fixture
def go(frozen, tmp_path):
    """A run that starts at the nearest of three prompts."""
    length = 5
    for seed in range(3):
        width = frozen.config.emb_dim
        save_prompt(tmp_path / "others" / f"{seed}", values(seed, length, width), **frozen.identity)

    def run(**options):
        spec = f"nearest:{tmp_path / 'others'}"
        settings = {"prompt_init": spec, "probe_steps": 2, "dropout_rate": 0.1}
        settings = tiny.short_run(frozen, tmp_path / "run", **settings)
        settings |= {"train_steps": 2, "eval_period": 2, "checkpoint_period": 2}
        return train(**settings | options)

    return run


def test_a_run_starts_at_the_prompt_nearest_to_its_own_after_the_probe(go, tmp_path, capsys):
    """The probe is the run's own first steps, and its data begin anew after it."""
    plain = go(prompt_init=None, model_dir=str(tmp_path / "plain"))
    embedding = load_prompt(tmp_path / "plain" / "prompts" / "2").values
    go(quiet=False)
    start = load_prompt(tmp_path / "run" / "prompts" / "0")
    near = [
        similarity(embedding, load_prompt(tmp_path / "others" / f"{seed}").values)
        for seed in range(3)
    ]
    best = int(np.argmax(near))
    np.testing.assert_array_equal(start.values, load_prompt(tmp_path / "others" / f"{best}").values)
    (taken,) = start.metadata["prompt_start"]["prompts"]
    assert taken["name"] == f"{best}"
    assert taken["similarity"] == pytest.approx(max(near), abs=1e-4)
    assert load_prompt(tmp_path / "run" / "best").metadata["prompt_start"]["probe_steps"] == 2
    assert f"starts at {best} (similarity" in capsys.readouterr().out
    by_path = go(
        prompt_init=str(tmp_path / "others" / f"{best}"), model_dir=str(tmp_path / "by_path")
    )
    again = load_prompt(tmp_path / "run" / "last").values
    np.testing.assert_array_equal(again, by_path.prompt.values)
    assert "prompt_start" not in plain.prompt.metadata


@pytest.mark.slow
def test_a_run_that_goes_on_looks_for_nothing(go, tmp_path, monkeypatch):
    whole = go(train_steps=4, model_dir=str(tmp_path / "whole"))
    go()
    shutil.rmtree(tmp_path / "others")
    monkeypatch.setattr(set_up, "find_start", None)
    go(train_steps=4)
    one, other = (load_prompt(tmp_path / name / "last") for name in ("whole", "run"))
    np.testing.assert_array_equal(one.values, other.values)
    assert one.metadata["prompt_start"] == other.metadata["prompt_start"]
    assert whole.history[-1]["train_loss"] == pytest.approx(
        other.metadata["scores"]["train_loss"], rel=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_init": "nearest:elsewhere"}, "prompt_init was .*others.*elsewhere"),
        slow({"probe_steps": 3}, "probe_steps was 2, now 3"),
    ],
)
def test_another_start_is_another_run(go, options, message):
    go()
    with pytest.raises(ValueError, match=message):
        go(**options)


def test_compared_runs_do_not_start_at_one_another(tmp_path):
    for spec in (f"nearest:{tmp_path}", f"nearest:{tmp_path}/runs/sweep:2"):
        with pytest.raises(ValueError, match="runs would start at one another's prompts"):
            nearest.check_apart(spec, tmp_path / "runs" / "sweep")
    nearest.check_apart(f"nearest:{tmp_path}/runs/other", tmp_path / "runs" / "sweep")
    nearest.check_apart("class_labels", tmp_path)


@pytest.mark.slow
def test_runs_together_start_each_at_its_own(frozen, tmp_path):
    for seed in range(4):
        width = frozen.config.emb_dim
        save_prompt(tmp_path / "others" / f"{seed}", values(seed, 5, width), **frozen.identity)
    settings = tiny.short_run(frozen, tmp_path / "runs", probe_steps=2, train_steps=2)
    del settings["model_dir"]
    runs = {
        "one": {"prompt_init": f"nearest:{tmp_path}"},
        "mean": {"prompt_init": f"nearest:{tmp_path / 'others'}:3", "seed": 1},
        "plain": {},
    }
    # As a kill before the first saved state leaves it: no start of those beside it.
    left = values(9, 5, frozen.config.emb_dim)
    save_prompt(tmp_path / "runs" / "plain" / "best", left, **frozen.identity)
    train_many(runs, model_dir=str(tmp_path / "runs"), **settings)
    starts = {name: load_prompt(tmp_path / "runs" / name / "prompts" / "0") for name in runs}
    assert len(starts["one"].metadata["prompt_start"]["prompts"]) == 1
    assert starts["one"].metadata["prompt_start"]["compared"] == 4
    assert len(starts["mean"].metadata["prompt_start"]["prompts"]) == 3
    assert "prompt_start" not in starts["plain"].metadata
    alone = settings | {"train_steps": 1, "prompt_init": f"nearest:{tmp_path / 'others'}"}
    train(**alone, model_dir=str(tmp_path / "alone"))
    begun = load_prompt(tmp_path / "alone" / "prompts" / "0")
    np.testing.assert_array_equal(begun.values, starts["one"].values)
    taken = [
        [one["path"] for one in start.metadata["prompt_start"]["prompts"]]
        for start in (begun, starts["one"])
    ]
    assert taken[0] == taken[1]


@pytest.mark.slow
def test_a_parameterisation_begins_at_the_nearest_too(go, tmp_path):
    go(prompt_parameterization="low_rank")
    start = load_prompt(tmp_path / "run" / "prompts" / "0")
    (taken,) = start.metadata["prompt_start"]["prompts"]
    source = load_prompt(tmp_path / "others" / taken["name"]).values
    np.testing.assert_allclose(start.values, source, atol=1e-6)


@pytest.mark.slow
def test_a_probe_that_breaks_says_so(go):
    with pytest.raises(ValueError, match=r"In the 2 steps before prompt_init looks .* not finite"):
        go(learning_rate=1e38)


@pytest.mark.slow
def test_the_model_is_as_it_was(go, frozen):
    before = jax.tree.map(np.asarray, frozen.params)
    go()
    jax.tree.map(np.testing.assert_array_equal, frozen.params, before)
