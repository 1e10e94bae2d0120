"""The loss against T5X's number and against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import GOLDENS

from prompt_tuning_jax.losses import token_cross_entropy, weighted_loss


@pytest.fixture
def logits(key):
    return 3 * jax.random.normal(key, (2, 3, 7))


TARGETS = jnp.array([[1, 6, 0], [4, 1, 0]])


def test_summed_loss_is_t5x():
    golden = np.load(GOLDENS / "t5x" / "t5_network_io.npz")
    targets, weights = golden["in/decoder_target_tokens"], golden["in/decoder_loss_weights"]
    weights = jnp.asarray(weights, jnp.float32)
    loss = weighted_loss(jnp.asarray(golden["logits"]), jnp.asarray(targets), weights)
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
