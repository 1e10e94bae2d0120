"""A prompt tuned behind a shared one: the shared rows stay, the task's own learn."""

import numpy as np
import pytest
import tiny

from prompt_tuning_jax import TunedPrompt, load_prompt, optim, save_prompt
from prompt_tuning_jax import train as run
from prompt_tuning_jax.combine import compose
from prompt_tuning_jax.params import PROMPT_NAME

SHORT = {"train_steps": 4, "eval_period": 2, "checkpoint_period": 2, "dropout_rate": 0.0}
pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def shared(tmp_path, model):
    values = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    save_prompt(tmp_path / "shared", values, fingerprint=model.fingerprint)
    return str(tmp_path / "shared")


@pytest.fixture
def start(model, tmp_path, shared):
    def start(name="run", **changes):
        defaults = {
            "model": model,
            "task": tiny.make_task(),
            "model_dir": str(tmp_path / name),
            "feature_lengths": tiny.LENGTHS,
            "batch_size": 8,
            "prompt_length": 5,
            "shared_prompt": shared,
            "quiet": True,
            **SHORT,
        }
        return run(**defaults | changes)

    return start


def test_only_the_own_rows_move(start, shared, tmp_path):
    prompt = start().prompt
    assert prompt.shape == (8, 16)
    assert prompt.metadata["shared_rows"] == 3
    np.testing.assert_array_equal(prompt.values[:3], load_prompt(shared).values)
    first = load_prompt(tmp_path / "run" / "prompts" / "0").values
    assert (np.abs(prompt.values[3:] - first[3:]).max(axis=1) > 0.01).all()


def test_the_first_step_is_that_of_the_whole_prompt(start, shared, tmp_path, model):
    """What the own rows learn in one step is what they learn as rows of a prompt of eight."""
    own = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    save_prompt(tmp_path / "own", own)
    save_prompt(tmp_path / "both", compose([load_prompt(shared), TunedPrompt(own)]))
    rules = [(PROMPT_NAME, optim.optax.sgd(0.1))]
    one = {"train_steps": 1, "eval_period": 1, "trainable": rules}
    behind = start("behind", prompt_init=str(tmp_path / "own"), **one).prompt.values
    whole = start(
        "whole", shared_prompt=None, prompt_length=8, prompt_init=str(tmp_path / "both"), **one
    ).prompt.values
    assert np.abs(whole[:3] - behind[:3]).max() > 1e-4
    np.testing.assert_allclose(behind[3:], whole[3:], atol=1e-6)


def test_both_parts_may_train(start, shared):
    rules = [(r"encoder/prompt/.*", optim.paper_adafactor(0.3))]
    prompt = start(trainable=rules).prompt
    assert np.abs(prompt.values[:3] - load_prompt(shared).values).max() > 0.01


def test_the_prompt_scores_as_one_file(start, model):
    result = start()
    again = model.classify(["the soup was good"], tiny.LABELS, result.prompt)
    parts = [TunedPrompt(result.prompt.values[:3]), TunedPrompt(result.prompt.values[3:])]
    composed = model.classify(["the soup was good"], tiny.LABELS, compose(parts))
    np.testing.assert_array_equal(again.scores, composed.scores)


@pytest.mark.slow
def test_a_run_continues_only_behind_the_same_prompt(start, tmp_path):
    start(train_steps=2)
    resumed = start().prompt
    np.testing.assert_array_equal(resumed.values, start("whole").prompt.values)
    save_prompt(tmp_path / "other", np.ones((3, 16), np.float32))
    with pytest.raises(ValueError, match="shared_prompt was"):
        start(shared_prompt=str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt_length": 0}, "prompt_length above 0"),
        ({"prompt_layout": "suffix"}, "layout 'prefix': set prompt_layout"),
        ({"shared_prompt": "no/such"}, "no/such"),
    ],
)
def test_mistakes_are_named(start, changes, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        start(**changes)


def test_a_run_goes_on_with_its_shared_prompt_alone(start):
    start()
    with pytest.raises(ValueError, match=r"shared_prompt was '\w+', now None"):
        start(shared_prompt=None, train_steps=6)
