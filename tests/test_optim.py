"""What trains and how: rules over names, and the paper's optimizer against T5X's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import GOLDENS, NEEDS_SHARED, shared_dir

from prompt_tuning_jax import optim

PARAMS = {
    "encoder": {"prompt": {"prompt": jnp.ones((5, 4))}, "layers_0": {"kernel": jnp.ones((4, 6))}},
    "decoder": {"logits_dense": {"kernel": jnp.ones((4, 9))}},
}
PROMPT = optim.PROMPT_NAME
ENCODER, LOGITS = "encoder/layers_0/kernel", "decoder/logits_dense/kernel"


def golden(shape: str) -> dict[str, np.ndarray]:
    if shape == "5x16":
        return dict(np.load(GOLDENS / "t5x" / "adafactor_5x16.npz"))
    path = shared_dir() and shared_dir() / "goldens" / "t5x" / "adafactor.npz"
    if not path or not path.exists():
        pytest.skip(NEEDS_SHARED)
    return {k.removeprefix(f"{shape}/"): x for k, x in np.load(path).items() if k.startswith(shape)}


@pytest.mark.parametrize("shape", ["5x16", "100x256"])
@pytest.mark.parametrize("start_step", [0, 3, 1_100_000])
def test_five_steps_are_the_references(shape, start_step):
    data = golden(shape)
    name = f"params_after_step_from_global_step_{start_step}" if start_step else "params_after_step"
    optimizer = optim.paper_adafactor(learning_rate=0.3, start_step=start_step)
    params = jnp.asarray(data["p0"])
    state = optimizer.init(params)
    for gradient, expected in zip(data["grads"], data[name], strict=True):
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "size"), [((100, 768), 100 * 768), ((256, 128), 256 + 128)], ids=["whole", "factored"]
)
def test_second_moment_is_factored_only_where_both_sides_reach_128(shape, size):
    state = optim.paper_adafactor().init(jnp.zeros(shape))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == pytest.approx(size, abs=5)


def test_learning_rate_may_be_a_schedule():
    optimizer = optim.paper_adafactor(optim.linear_decay(peak=0.3, steps=10))
    ones = jnp.ones((2, 3))
    updates, _ = optimizer.update(ones, optimizer.init(ones), ones)
    assert np.isfinite(updates).all()


def test_linear_decay_warms_up_holds_and_falls_to_nothing():
    rate = optim.linear_decay(peak=2.0, steps=100, decay_from=0.6, warmup=10)
    steps = [0, 5, 10, 60, 80, 100, 150]
    np.testing.assert_allclose([rate(s) for s in steps], [0, 1, 2, 2, 1, 0, 0], atol=1e-6)
    assert optim.linear_decay(peak=2.0, steps=100)(0) == 2.0


def test_what_no_rule_matches_is_frozen():
    trainable, frozen = optim.split_params(PARAMS, optim.prompt_rules())
    assert set(trainable) == {PROMPT}
    assert set(frozen) == {ENCODER, LOGITS}


def test_model_rules_train_everything():
    trainable, frozen = optim.split_params(PARAMS, optim.model_rules())
    assert set(trainable) == {PROMPT, ENCODER, LOGITS}
    assert not frozen


def test_split_and_merge_copy_nothing():
    merged = optim.merge_params(*optim.split_params(PARAMS, optim.prompt_rules()))
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    pairs = zip(jax.tree.leaves(merged), jax.tree.leaves(PARAMS), strict=True)
    assert all(ours is theirs for ours, theirs in pairs)


def test_the_first_rule_that_matches_decides():
    rules = [("encoder/prompt/.*", optax.sgd(1.0)), ("encoder/.*", optax.sgd(10.0))]
    trainable, frozen = optim.split_params(PARAMS, rules)
    assert set(frozen) == {LOGITS}
    optimizer = optim.make_optimizer(trainable, rules)
    gradients = jax.tree.map(jnp.ones_like, trainable)
    updates, _ = optimizer.update(gradients, optimizer.init(trainable), trainable)
    np.testing.assert_array_equal(updates[PROMPT], np.full((5, 4), -1.0))
    np.testing.assert_array_equal(updates[ENCODER], np.full((4, 6), -10.0))


def test_only_what_trains_has_optimizer_state():
    rules = optim.prompt_rules()
    trainable, _ = optim.split_params(PARAMS, rules)
    state = optim.make_optimizer(trainable, rules).init(trainable)
    assert [leaf.shape for leaf in jax.tree.leaves(state) if leaf.size > 1] == [(5, 4)]


def test_each_rule_keeps_state_for_its_own_parameters():
    rules = [(PROMPT, optax.adam(1.0)), (ENCODER, optax.sgd(1.0))]
    trainable, _ = optim.split_params(PARAMS, rules)
    state = optim.make_optimizer(trainable, rules).init(trainable)
    assert [leaf.shape for leaf in jax.tree.leaves(state) if leaf.size > 1] == [(5, 4), (5, 4)]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("encoder/promt/.*", "matches no parameter"),
        ("prompt", "whole name"),
        ("encoder/(", "not a regular expression"),
    ],
)
def test_a_rule_with_a_mistake_is_refused(pattern, words):
    with pytest.raises(ValueError, match=words) as error:
        optim.split_params(PARAMS, [(pattern, optax.sgd(1.0))])
    assert repr(pattern) in str(error.value)
