"""What trains and how: rules over names, and the optimizer and the loss against T5X's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import GOLDENS, NEEDS_SHARED, shared_dir

from prompt_tuning_jax import optim
from prompt_tuning_jax.methods.assemble import assembled
from prompt_tuning_jax.optim import token_cross_entropy, weighted_loss
from prompt_tuning_jax.params import PROMPT_NAME as PROMPT
from prompt_tuning_jax.params import split_params

PARAMS = {
    "encoder": {"prompt": {"prompt": jnp.ones((5, 4))}, "layers_0": {"kernel": jnp.ones((4, 6))}},
    "decoder": {"logits_dense": {"kernel": jnp.ones((4, 9))}},
}
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
    trainable, frozen = split_params(PARAMS, optim.prompt_rules())
    assert set(trainable) == {PROMPT}
    assert set(frozen) == {ENCODER, LOGITS}


def test_model_rules_train_everything():
    trainable, frozen = split_params(PARAMS, optim.model_rules())
    assert set(trainable) == {PROMPT, ENCODER, LOGITS}
    assert not frozen


def test_split_and_assembled_copy_nothing():
    merged = assembled(*split_params(PARAMS, optim.prompt_rules()))
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    pairs = zip(jax.tree.leaves(merged), jax.tree.leaves(PARAMS), strict=True)
    assert all(ours is theirs for ours, theirs in pairs)


def test_the_first_rule_that_matches_decides():
    rules = [("encoder/prompt/.*", optax.sgd(1.0)), ("encoder/.*", optax.sgd(10.0))]
    trainable, frozen = split_params(PARAMS, rules)
    assert set(frozen) == {LOGITS}
    optimizer = optim.make_optimizer(trainable, rules)
    gradients = jax.tree.map(jnp.ones_like, trainable)
    updates, _ = optimizer.update(gradients, optimizer.init(trainable), trainable)
    np.testing.assert_array_equal(updates[PROMPT], np.full((5, 4), -1.0))
    np.testing.assert_array_equal(updates[ENCODER], np.full((4, 6), -10.0))


def test_only_what_trains_has_optimizer_state():
    rules = optim.prompt_rules()
    trainable, _ = split_params(PARAMS, rules)
    state = optim.make_optimizer(trainable, rules).init(trainable)
    assert [leaf.shape for leaf in jax.tree.leaves(state) if leaf.size > 1] == [(5, 4)]


def test_each_rule_keeps_state_for_its_own_parameters():
    rules = [(PROMPT, optax.adam(1.0)), (ENCODER, optax.sgd(1.0))]
    trainable, _ = split_params(PARAMS, rules)
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
        split_params(PARAMS, [(pattern, optax.sgd(1.0))])
    assert repr(pattern) in str(error.value)


# --- the loss


@pytest.fixture
def logits(key):
    return 3 * jax.random.normal(key, (2, 3, 7))


TARGETS = jnp.array([[1, 6, 0], [4, 1, 0]])


def test_summed_loss_is_t5x():
    golden = np.load(GOLDENS / "t5x" / "t5_network_io.npz")
    targets, weights = golden["in/decoder_target_tokens"], golden["in/decoder_loss_weights"]
    loss = weighted_loss(jnp.asarray(golden["logits"]), jnp.asarray(targets), jnp.asarray(weights))
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-6)


def test_cross_entropy_is_minus_log_softmax(logits):
    exact = np.asarray(logits, np.float64)
    log_probs = exact - np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    expected = -np.take_along_axis(log_probs, np.asarray(TARGETS)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(token_cross_entropy(logits, TARGETS), expected, rtol=1e-5)


def test_equal_logits_cost_the_log_of_the_vocabulary():
    loss = token_cross_entropy(jnp.zeros((2, 3, 7)), TARGETS)
    np.testing.assert_allclose(loss, np.full((2, 3), np.log(7)), rtol=1e-6)


def test_z_loss_is_the_squared_log_normaliser(logits):
    extra = token_cross_entropy(logits, TARGETS, 0.5) - token_cross_entropy(logits, TARGETS)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    np.testing.assert_allclose(extra, 0.5 * log_z**2, rtol=1e-4)


def test_large_logits_stay_finite():
    loss = token_cross_entropy(jnp.array([[[1e4, 0.0, -1e4]]]), jnp.array([[2]]))
    np.testing.assert_allclose(loss, [[2e4]])


def test_tokens_of_no_weight_count_for_nothing(logits):
    weights = (TARGETS > 0).astype(jnp.float32)
    gradient = jax.grad(weighted_loss)(logits, TARGETS, weights)
    assert not gradient[:, 2].any()
    assert gradient[:, :2].any(axis=-1).all()
    other = logits.at[:, 2].set(0.0)
    assert weighted_loss(logits, TARGETS, weights) == weighted_loss(other, TARGETS, weights)
