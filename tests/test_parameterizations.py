"""A prompt's forms while it trains, and the rest of the recipe: laws of leaves, and of runs."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from common import slow

import prompt_tuning_jax as pt
from prompt_tuning_jax import initializers
from prompt_tuning_jax.methods.assemble import assembled
from prompt_tuning_jax.methods.parameterizations import choice
from prompt_tuning_jax.params import PROMPT_FOLDER, PROMPT_NAME, prompt_of
from prompt_tuning_jax.settings.train_config import TrainConfig

P, D, V = 5, 12, 40
FORMS = tuple(choice.PARAMETERIZATIONS)
TABLE = np.asarray(jax.random.normal(jax.random.key(1), (V, D)))
PROMPT = jax.random.normal(jax.random.key(2), (P, D))
SAMPLE = initializers.sampled_vocabulary(TABLE)


def leaves_of(name, size=None):
    return choice.start(name, jax.random.key(0), PROMPT, size, SAMPLE)


def fold(leaves):
    return choice.folded(leaves)[PROMPT_NAME]


@pytest.mark.parametrize("name", choice.NAMES)
def test_a_prompt_begins_exactly_at_its_start(name):
    leaves = leaves_of(name)
    assert set(leaves) == {*choice.trainable_names(name), *choice.frozen_names(name)}
    np.testing.assert_array_equal(fold(leaves), PROMPT)
    assert all(x.dtype == jnp.float32 for x in leaves.values())


@pytest.mark.parametrize("name", [x if x == "low_rank" else slow(x) for x in FORMS])
def test_every_leaf_that_trains_moves_the_prompt_and_no_other_does(name):
    leaves = leaves_of(name)
    # A step off the start, where some leaves multiply zeros.
    trained = {key: leaves[key] + 0.1 for key in choice.trainable_names(name)}
    frozen = {key: leaves[key] for key in choice.frozen_names(name)}
    gradients = jax.grad(lambda x: jnp.sum(jnp.sin(fold({**frozen, **x}))))(trained)
    assert all(np.abs(x).max() > 1e-4 for x in gradients.values())
    assert prompt_of(assembled(trained, frozen)).shape == (P, D)


def test_low_rank_is_its_equation():
    leaves = leaves_of("low_rank", size=3)
    leaf = {key.rsplit("/")[-1]: np.asarray(x, np.float64) for key, x in leaves.items()}
    rng = np.random.default_rng(0)
    for key in ("coefficients", "scale", "shift"):
        leaf[key] = rng.normal(size=leaf[key].shape)
    expected = leaf["start"] + leaf["coefficients"] @ leaf["basis"] * leaf["scale"] + leaf["shift"]
    folder = f"{PROMPT_FOLDER}low_rank/"
    ours = fold({folder + key: jnp.asarray(x, jnp.float32) for key, x in leaf.items()})
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    trained = sum(x.size for key, x in leaves.items() if key in choice.trainable_names("low_rank"))
    assert trained == P * 3 + 2 * D


def test_a_superposition_mixes_the_vocabularys_vectors():
    leaves = leaves_of("superposition", size=20)
    vectors = np.asarray(leaves[f"{PROMPT_FOLDER}superposition/vectors"])
    assert vectors.shape == (20, D)
    assert all(np.isclose(row, TABLE).all(axis=1).any() for row in vectors[P:])


def test_a_superposition_needs_a_vector_for_each_row():
    with pytest.raises(ValueError, match=r"parameterization_size.*5.*not 3"):
        leaves_of("superposition", size=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.own_model(tmp_path_factory.mktemp("t5"))


def options(model, model_dir, **changes):
    return tiny.own_run(model, model_dir, **{"learning_rate": 0.1} | changes)


@pytest.mark.parametrize("name", ["low_rank", slow("residual"), slow("superposition")])
def test_a_run_begins_at_the_start_and_saves_the_prompt_alone(model, tmp_path, name):
    before = model.fingerprint
    result = pt.train(**options(model, tmp_path / name, prompt_parameterization=name))
    direct = pt.train(**options(model, tmp_path / "direct", train_steps=1))
    starts = [pt.load_prompt(tmp_path / each / "prompts" / "0").values for each in (name, "direct")]
    np.testing.assert_array_equal(*starts)
    assert result.prompt.shape == direct.prompt.shape == (4, model.config.emb_dim)
    assert np.abs(pt.load_prompt(tmp_path / name / "last").values - starts[0]).max() > 1e-3
    assert result.model.replace(known_fingerprint=None).fingerprint == before


EVERYTHING = {
    "prompt_parameterization": "low_rank",
    "parameterization_size": 3,
    "optimizer": "adamw",
    "schedule": "linear",
    "warmup_steps": 1,
    "average_decay": 0.9,
    "label_smoothing": 0.1,
}


@pytest.mark.slow
def test_the_whole_recipe_resumes_as_it_was(model, tmp_path):
    """Its schedule runs to the steps of the whole run, and its averages go on."""
    whole = pt.train(**options(model, tmp_path / "whole", **EVERYTHING))
    with pytest.raises(ValueError, match="train_steps"):
        pt.train(**options(model, tmp_path / "whole", **EVERYTHING, train_steps=8))
    _interrupt(tmp_path / "whole", tmp_path / "again", step=2)
    again = pt.train(**options(model, tmp_path / "again", **EVERYTHING))
    assert [scores["step"] for scores in again.history] == [2, 4]
    for name in ("best", "last"):
        ours, theirs = (pt.load_prompt(tmp_path / run / name).values for run in ("again", "whole"))
        np.testing.assert_array_equal(ours, theirs)
    assert whole.history == again.history


def _interrupt(whole, again, step):
    """`again` as the run `whole` was when it had saved the state of a step."""
    shutil.copytree(whole, again)
    for saved in (again / "state").iterdir():
        if saved.name.isdigit() and int(saved.name) > step:
            shutil.rmtree(saved)


@pytest.mark.slow
def test_runs_together_come_out_as_alone(model, tmp_path):
    changes = {"slow": {"learning_rate": 0.05, "seed": 1}, "short": {"train_steps": 2}}
    together = pt.train_many(changes, **options(model, tmp_path / "many", **EVERYTHING))
    for name, own in changes.items():
        alone = pt.train(**options(model, tmp_path / name, **EVERYTHING | own))
        values = together[name].prompt.values
        np.testing.assert_allclose(values, alone.prompt.values, rtol=0, atol=2e-5)


def test_a_prompt_is_averaged_and_nothing_dropped_unless_it_is_said():
    """The default recipe is a prompt's; whatever else trains has the paper's."""
    usual = TrainConfig()
    assert (usual.averaging, usual.dropout) == (0.95, 0.0)
    for others in ({"prompt_length": 0}, {"method": "lora"}):
        assert (TrainConfig(**others).averaging, TrainConfig(**others).dropout) == (0.0, 0.1)
    asked = TrainConfig(average_decay=0.0, dropout_rate=0.1)
    assert (asked.averaging, asked.dropout) == (0.0, 0.1)


def test_what_is_saved_is_the_average_of_the_steps(model, tmp_path):
    """By its definition, from the prompts that a run without it leaves after every step."""
    steps = {"eval_period": 1, "train_steps": 3, "learning_rate": 0.1}
    pt.train(**options(model, tmp_path / "plain", average_decay=0.0, **steps))
    pt.train(**options(model, tmp_path / "averaged", average_decay=0.15, **steps))
    after = [pt.load_prompt(tmp_path / "plain" / "prompts" / str(i)).values for i in range(4)]
    expected = after[0]
    for step, prompt in enumerate(after[1:]):
        kept = min(0.15, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * prompt
        found = pt.load_prompt(tmp_path / "averaged" / "prompts" / str(step + 1)).values
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameterization_size": 4}, "parameterization_size.*direct"),
        ({"prompt_parameterization": "low_rank", "prompt_length": 0}, "prompt_length"),
        ({"trainable": tiny.PLAIN_STEPS, "optimizer": "adamw", "learning_rate": None}, "optimizer"),
        ({"trainable": tiny.PLAIN_STEPS, "schedule": "linear", "learning_rate": None}, "schedule"),
    ],
)
def test_what_would_change_nothing_is_refused(model, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        pt.train(**options(model, tmp_path / "run", **changes))
