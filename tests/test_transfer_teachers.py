"""What several prompts have in common, distilled from the finished prompts of their tasks."""

import json

import numpy as np
import pytest
import tiny
from causal_models import MODELS
from common import slow

from prompt_tuning_jax import load_model, load_prompt, save_prompt, train, train_many
from prompt_tuning_jax.methods.distillation import divergence

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module", params=["t5", slow("causal")])
def frozen(request, model):
    return model if request.param == "t5" else load_model(MODELS["qwen3"])


def test_the_divergence_is_that_of_the_definition():
    teacher, student = np.random.default_rng(0).normal(size=(2, 3, 2, 7)).astype(np.float32) * 4
    exponents = np.exp(np.float64([teacher, student]))
    p, q = exponents / exponents.sum(axis=-1, keepdims=True)
    found = divergence(teacher, student)
    np.testing.assert_allclose(found, (p * np.log(p / q)).sum(axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(divergence(teacher, teacher), np.zeros((3, 2)))


RUNS = {"one": {}, "two": {"seed": 1}}


def settings_of(model, place, **changes):
    settings = tiny.short_run(model, place / "runs", train_steps=4, eval_period=2)
    settings |= {"share": "product", "mix_tasks": True, "teachers": str(place / "teachers")}
    return settings | {"checkpoint_period": 2} | changes


def save_teacher(model, place, seed=0, rows=3, **facts):
    values = np.random.default_rng(seed).normal(size=(rows, model.config.emb_dim))
    facts = {"task": "food", "fingerprint": model.fingerprint} | facts
    save_prompt(place, values.astype(np.float32), **facts)


@pytest.fixture
def teachers(frozen, tmp_path):
    """Of both runs, as runs of these names leave them; and what is none."""
    for seed, name in enumerate(RUNS):
        save_teacher(frozen, tmp_path / "teachers" / name / "best", seed)
    save_teacher(frozen, tmp_path / "teachers" / "other" / "best", 2, task="drink")
    return tmp_path


def last(place):
    return [load_prompt(place / name).values for name in ("one/last", "two/last", "shared")]


def train_loss(place):
    return json.loads((place / "one" / "history.json").read_text())[-1]["train_loss"]


@pytest.mark.slow
def test_a_weight_of_0_is_no_teacher(teachers, frozen):
    plain = teachers / "plain"
    train_many(RUNS, **settings_of(frozen, teachers, model_dir=str(plain), teachers=None))
    for weight, same in ((0.0, True), (2.0, False)):
        place = teachers / str(weight)
        train_many(
            RUNS, **settings_of(frozen, teachers, model_dir=str(place), teacher_weight=weight)
        )
        for one, other in zip(last(place), last(plain), strict=True):
            assert np.allclose(one, other, atol=1e-4) == same
        assert np.isclose(train_loss(place), train_loss(plain), rtol=1e-5) == same


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
def test_runs_go_on_with_the_same_teachers_alone(teachers, frozen, mixed):
    settings = settings_of(frozen, teachers, mix_tasks=mixed)
    train_many(RUNS, **settings | {"model_dir": str(teachers / "whole")})
    for steps in (2, 4):
        train_many(RUNS, **settings | {"train_steps": steps})
    for one, other in zip(last(teachers / "runs"), last(teachers / "whole"), strict=True):
        np.testing.assert_array_equal(one, other)
    save_teacher(frozen, teachers / "teachers" / "two" / "best", 5)
    with pytest.raises(ValueError, match="two: teachers was"):
        train_many(RUNS, **settings | {"train_steps": 6})


@pytest.mark.slow
def test_what_is_distilled_is_where_a_task_starts(teachers, frozen):
    train_many(RUNS, **settings_of(frozen, teachers))
    shared = str(teachers / "runs" / "shared")
    train(**tiny.short_run(frozen, teachers / "tuned", prompt_init=shared))
    began = load_prompt(teachers / "tuned" / "prompts" / "0").values
    np.testing.assert_array_equal(began, load_prompt(shared).values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": None, "mix_tasks": False}, "teach several prompts that have a part in common"),
        ({"teachers": None, "teacher_weight": 2.0}, "teacher_weight is for teachers: set it"),
        ({"task": tiny.make_task(name="drinks")}, "of the task 'drinks'; tasks there: drink, food"),
        ({"prompt_layout": "suffix"}, "it has the layout 'prefix': set prompt_layout to that"),
    ],
)
def test_what_is_refused(teachers, model, changes, message):
    with pytest.raises(ValueError, match=message):
        train_many(RUNS, **settings_of(model, teachers, **changes))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"fingerprint": "0" * 64}, "run 'one' has no teacher there: .*tuned for another model"),
        ({"rows": 5}, "as many rows as each other, not one 3, two 5"),
        ({"task": "drink"}, "one/best would teach several runs, 'two' among them"),
        ({"task": "drink", "more": True}, "run 'two' could have several teachers, more, one"),
    ],
)
def test_teachers_that_fit_nobody_are_named(teachers, model, facts, message):
    facts, place = dict(facts), teachers / "teachers"
    if facts.pop("more", False):
        save_teacher(model, place / "more" / "best")
    if "fingerprint" in facts:  # else the other run's would be taken for the only one
        for other in ("one", "other"):
            save_teacher(model, place / other / "best", **facts)
    save_teacher(model, place / "two" / "best", **facts)
    with pytest.raises(ValueError, match=message):
        train_many(RUNS, **settings_of(model, teachers))
