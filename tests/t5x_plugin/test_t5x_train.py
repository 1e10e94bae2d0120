"""Laws of `t5x.train` with our gin files: what moves, what is written, how a run continues."""

import itertools
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import t5x_runs

from prompt_tuning_jax import load_prompt
from prompt_tuning_jax.bundled.tasks import bundled_task
from prompt_tuning_jax.checkpoints import t5x
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.checkpoints.t5x.checkpoint import open_checkpoint
from prompt_tuning_jax.params import unflatten
from prompt_tuning_jax.training import prompt_start
from prompt_tuning_jax.vocabularies import load_vocabulary

pytestmark = pytest.mark.t5x
STEPS = (3, 7, 11, 15)
PROMPT = "encoder/prompt/prompt"


def state(checkpoint):
    leaves = open_checkpoint(checkpoint).leaves("state/")
    return {name: leaf.read() for name, leaf in leaves.items()}


def assert_only_the_prompt_differs(checkpoint, base):
    before, after = t5x_runs.weights(base), t5x_runs.weights(checkpoint)
    assert set(after) - set(before) == {PROMPT}
    for name, values in before.items():
        assert after[name].dtype == values.dtype
        assert after[name].tobytes() == values.tobytes(), name


@pytest.mark.parametrize("step", STEPS)
def test_every_weight_but_the_prompt_is_bit_identical(run, base, step):
    assert_only_the_prompt_differs(run / f"checkpoint_{step}", base)


def test_the_prompt_moves_at_every_step(run):
    prompts = [t5x_runs.prompt(run / f"checkpoint_{step}") for step in STEPS]
    assert all(np.abs(b - a).mean() > 0.1 for a, b in itertools.pairwise(prompts))


def test_only_the_prompt_has_optimizer_state(run):
    names = [name for name in state(run / "checkpoint_15") if name != "step"]
    assert all(name.endswith((PROMPT, "/count")) for name in names)
    assert any(name.endswith(f"/v/{PROMPT}") for name in names)


def test_steps_stay_whole_numbers_that_go_on_from_the_base(run):
    last = state(run / "checkpoint_15")
    assert {x.dtype for name, x in last.items() if name.endswith(("step", "count"))} == {
        np.dtype("int32")
    }
    assert last["step"] == 15


@pytest.mark.parametrize("step", STEPS)
def test_a_prompt_file_comes_with_every_checkpoint(run, base, step):
    prompt = load_prompt(run / "prompts" / str(step))
    np.testing.assert_array_equal(prompt.values, t5x_runs.prompt(run / f"checkpoint_{step}"))
    assert prompt.layout == "prefix"
    assert prompt.metadata["step"] == step
    assert prompt.metadata["task"] == "bundled_sentiment"
    assert prompt.metadata["base_model"] == str(base)
    identity = fingerprint(unflatten(t5x_runs.weights(base)))
    assert prompt.metadata["base_model_fingerprint"] == identity


def test_the_prompt_starts_where_our_trainer_starts_it(run, base):
    table = t5x_runs.weights(base)["token_embedder/embedding"]
    labels = bundled_task("bundled_sentiment").verbalizers
    vocabulary = load_vocabulary(BUNDLED / "spiece.model")
    first = prompt_start.resolve("class_labels", table, vocabulary, labels)
    expected = first(jax.random.key(0), (5, 16))
    np.testing.assert_array_equal(t5x_runs.prompt(run / "checkpoint_3"), expected)


# --- a run that was stopped


def stopped_after(run, step, copy):
    """The directory of a run as a kill after its checkpoint of `step` leaves it."""
    shutil.copytree(run, copy)
    for later in (s for s in STEPS if s > step):
        shutil.rmtree(copy / f"checkpoint_{later}")
    return copy


def test_a_stopped_run_ends_as_if_it_had_not_been(run, base, tmp_path):
    again = stopped_after(run, 7, tmp_path / "again")
    t5x_runs.train(again, base)
    for step in (11, 15):
        ours, theirs = again / f"checkpoint_{step}", run / f"checkpoint_{step}"
        assert t5x_runs.prompt(ours).tobytes() == t5x_runs.prompt(theirs).tobytes()
        assert {k: x.tobytes() for k, x in state(ours).items()} == {
            k: x.tobytes() for k, x in state(theirs).items()
        }


def test_a_stopped_run_continues_without_its_base_checkpoint(run, base, tmp_path):
    again = stopped_after(run, 11, tmp_path / "again")
    t5x_runs.train(again, tmp_path / "moved" / "checkpoint_3")
    np.testing.assert_array_equal(
        t5x_runs.prompt(again / "checkpoint_15"), t5x_runs.prompt(run / "checkpoint_15")
    )


def test_a_half_written_checkpoint_is_passed_over(run, base, tmp_path):
    again = stopped_after(run, 11, tmp_path / "again")
    partial = again / "checkpoint_15.orbax-checkpoint-tmp"
    partial.mkdir()
    (partial / "state").write_bytes(b"")
    t5x_runs.train(again, base)
    np.testing.assert_array_equal(
        t5x_runs.prompt(again / "checkpoint_15"), t5x_runs.prompt(run / "checkpoint_15")
    )


def test_the_directory_of_an_earlier_run_is_refused(run, base, tmp_path):
    again = stopped_after(run, 7, tmp_path / "again")
    later = t5x.save(tmp_path, t5x_runs.weights(base), step=100)
    with pytest.raises(ValueError, match="holds another run: its latest step is 7"):
        t5x_runs.train(again, later)


# --- what else may be asked for


RULES = {
    "adam": "[('encoder/prompt/prompt', @optim.adam())]",
    "two rules": (
        "[('encoder/prompt/prompt', @optim.adam()), "
        "('decoder/.*/scale', @optim.model_tuning_adafactor())]"
    ),
}


@pytest.mark.parametrize("rules", RULES)
def test_what_trains_is_the_rules(base, tmp_path, rules):
    given = {"TRAINABLE": t5x_runs.Gin(RULES[rules]), "optim.adam.learning_rate": 0.1}
    t5x_runs.train(tmp_path / "whole", base, **given)
    before, after = (
        t5x_runs.weights(path) for path in (base, tmp_path / "whole" / "checkpoint_15")
    )
    moved = {name for name in before if after[name].tobytes() != before[name].tobytes()}
    scales = {name for name in before if name.startswith("decoder/") and name.endswith("/scale")}
    assert moved == (scales if rules == "two rules" else set())
    assert np.abs(after[PROMPT] - t5x_runs.prompt(tmp_path / "whole" / "checkpoint_3")).max() > 0.5

    again = stopped_after(tmp_path / "whole", 7, tmp_path / "again")
    t5x_runs.train(again, base, **given)
    ended = t5x_runs.weights(again / "checkpoint_15")
    assert all(after[name].tobytes() == ended[name].tobytes() for name in after)


def test_a_rule_that_matches_nothing_is_refused(base, tmp_path):
    rules = t5x_runs.Gin("[('encoder/promt/.*', @optim.paper_adafactor())]")
    with pytest.raises(ValueError, match="matches no parameter"):
        t5x_runs.train(tmp_path, base, TRAINABLE=rules)


def test_bfloat16_weights_stay_so(base, tmp_path):
    params = {name: x.astype(ml_dtypes.bfloat16) for name, x in t5x_runs.weights(base).items()}
    params["decoder/decoder_norm/scale"][0] = -0.0  # adding an update of 0 would lose the sign
    small = t5x.save(tmp_path, params, step=3)
    t5x_runs.train(tmp_path / "run", small, ACTIVATION_DTYPE="bfloat16")
    assert_only_the_prompt_differs(tmp_path / "run" / "checkpoint_15", small)
    assert t5x_runs.prompt(tmp_path / "run" / "checkpoint_15").dtype == np.float32


def test_a_base_of_another_size_is_refused(base, tmp_path):
    with pytest.raises(ValueError, match=r"does not fit this model.*is \[16, 32\] and not"):
        t5x_runs.train(tmp_path, base, **{"config.T5Config.mlp_dim": 64})


def test_a_base_that_lacks_a_weight_is_refused(base, tmp_path):
    """T5X's own fallback would train on random numbers in its place."""
    params = t5x_runs.weights(base)
    del params["decoder/layers_0/mlp/wo/kernel"]
    partial = t5x.save(tmp_path, params, step=3)
    with pytest.raises(ValueError, match=r"wo/kernel is missing"):
        t5x_runs.train(tmp_path / "run", partial)


def test_a_base_must_be_one_checkpoint(run, tmp_path):
    with pytest.raises(ValueError, match="must end in checkpoint_N"):
        t5x_runs.train(tmp_path, run)


# --- T5X's old format


def test_a_base_in_the_old_format_starts_the_same_run(run, tmp_path):
    old = t5x_runs.write_base(tmp_path / "old", form="legacy")
    t5x_runs.train(tmp_path / "run", old)
    for step in STEPS:
        ours, theirs = (t5x_runs.prompt(d / f"checkpoint_{step}") for d in (tmp_path / "run", run))
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_in_the_old_format_is_the_same_and_continues(run, tmp_path):
    old = t5x_runs.write_base(tmp_path / "old", form="legacy")
    for steps in (11, 15):
        t5x_runs.train(tmp_path / "run", old, TRAIN_STEPS=steps, **{"train.use_orbax": False})
    assert open_checkpoint(tmp_path / "run" / "checkpoint_15").kind == "legacy"
    assert_only_the_prompt_differs(tmp_path / "run" / "checkpoint_15", old)
    for step in STEPS:
        written = load_prompt(tmp_path / "run" / "prompts" / str(step)).values
        np.testing.assert_array_equal(written, t5x_runs.prompt(run / f"checkpoint_{step}"))
