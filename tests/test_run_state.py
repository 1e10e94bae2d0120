"""A run's state on disk: whole, exact, small, and refused by other runs."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_jax import optim
from prompt_tuning_jax.checkpoints.run_state import RunState

IDENTITY = {"BATCH_SIZE": 8, "RANDOM_SEED": 0, "TASK_FEATURE_LENGTHS": {"inputs": 16, "targets": 4}}
META = {"data": {"epoch": 1, "pending": [[[5, 1], [6, 1]]]}, "history": [], "best": None}


@pytest.fixture(scope="module")
def arrays():
    """What trains, with the state of a real optimizer."""
    params = {f"layers_{i}/kernel": jax.random.normal(jax.random.key(i), (2, 3)) for i in range(11)}
    optimizer = optim.make_optimizer(params, [(".*", optim.adam(0.1))])
    return params, optimizer.init(params)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, arrays):
    directory = tmp_path_factory.mktemp("run")
    state = RunState(directory, IDENTITY)
    for step in (3, 6, 9):
        state.save(step, jax.tree.map(lambda x, s=step: x + s, arrays), **META)
    state.close()
    return directory


def blank(arrays):
    return jax.tree.map(jnp.zeros_like, arrays)


def test_a_fresh_run_has_no_state(tmp_path):
    state = RunState(tmp_path, IDENTITY)
    assert state.latest_step() is None
    state.close()


def test_what_is_restored_is_what_was_saved(saved, arrays):
    state = RunState(saved, IDENTITY)
    assert state.latest_step() == 9
    restored, meta = state.restore(9, blank(arrays))
    state.close()
    assert jax.tree.structure(restored) == jax.tree.structure(arrays)
    for mine, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(arrays), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs + 9)
    assert meta == META


def test_only_the_last_two_states_are_kept(saved):
    assert {path.name for path in (saved / "state").iterdir()} == {"6", "9"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"BATCH_SIZE": 16}, "BATCH_SIZE was 8, now 16"),
        ({"TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 4}}, "TASK_FEATURE_LENGTHS"),
        ({"PROMPT_LENGTH": 5}, "PROMPT_LENGTH was None, now 5"),
    ],
)
def test_another_runs_state_is_refused_with_the_difference(saved, arrays, changes, words):
    state = RunState(saved, IDENTITY | changes)
    with pytest.raises(ValueError, match=words) as error:
        state.restore(9, blank(arrays))
    state.close()
    assert "model_dir" in str(error.value)


def test_tuples_and_lists_are_the_same_setting(tmp_path, arrays):
    state = RunState(tmp_path, {"buckets": (1, 2)})
    state.save(1, arrays)
    state.close()
    again = RunState(tmp_path, {"buckets": [1, 2]})
    again.restore(1, blank(arrays))
    again.close()


def test_another_optimizers_state_is_refused(saved, arrays):
    params, _ = arrays
    other = optim.make_optimizer(params, [(".*", optim.paper_adafactor())])
    state = RunState(saved, IDENTITY)
    with pytest.raises(ValueError, match="another optimizer"):
        state.restore(9, (params, other.init(params)))
    state.close()


def test_a_half_written_state_is_passed_over(saved, arrays, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    half = tmp_path / "run" / "state" / "12.orbax-checkpoint-tmp"
    shutil.copytree(saved / "state" / "9", half)
    state = RunState(tmp_path / "run", IDENTITY)
    assert state.latest_step() == 9
    state.close()


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "3", "", "{}", '{"identity": 3}', '{"identity": {}, "history": "none"}'],
)
def test_a_damaged_record_is_named(saved, arrays, tmp_path, text):
    directory = shutil.copytree(saved, tmp_path / "run")
    (directory / "state" / "9" / "meta" / "metadata").write_text(text)
    state = RunState(directory, IDENTITY)
    with pytest.raises(ValueError, match=r"state/9 is damaged \(.*Delete it"):
        state.restore(9, blank(arrays))
    state.close()
