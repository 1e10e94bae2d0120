"""The prompt parameter, and how it joins the embedded tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.prompts import Prompt, PromptBank, join


def test_prompt_is_one_float32_parameter_with_axes(key):
    variables = Prompt(5).init(key, 16)
    prompt = variables["params"]["prompt"]
    assert prompt.shape == (5, 16)
    assert prompt.dtype == jnp.float32
    assert tuple(variables["params_axes"]["prompt_axes"].names) == ("prompt", "embed")
    assert float(jnp.abs(prompt).max()) <= 0.5
    assert float(prompt.min()) < -0.3 < 0.3 < float(prompt.max())


def test_bank_is_one_parameter_and_its_prompts_differ(key):
    variables = PromptBank(3, 5).init(key, 16)
    bank = variables["params"]["prompt"]
    assert bank.shape == (3, 5, 16)
    axes = variables["params_axes"]["prompt_axes"].names
    assert tuple(axes) == ("prompt_bank", "prompt", "embed")
    assert not np.allclose(bank[0], bank[1])


def test_initial_values_come_from_init(key):
    values = np.arange(6.0).reshape(2, 3)
    start = Prompt(2, initializer=lambda key, shape: values).init(key, 3)["params"]["prompt"]
    np.testing.assert_array_equal(start, values)
    assert start.dtype == jnp.float32


def test_initial_values_of_another_shape_are_refused(key):
    module = Prompt(4, initializer=lambda key, shape: np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"values are \[2, 3\].*set up for \[4, 3\]"):
        module.init(key, 3)


def test_stored_prompt_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"values are \[5, 16\].*set up for \[4, 16\]"):
        Prompt(4).apply({"params": {"prompt": jnp.zeros((5, 16))}}, 16)


@pytest.fixture
def row():
    tokens, positions = place_prompt(jnp.array([[3, 4, 1], [3, 1, 0]]), 2, "after_bos")
    embedded = jax.random.normal(jax.random.key(1), (*tokens.shape, 4))
    return embedded, positions


def test_join_puts_rows_where_positions_say(row):
    embedded, positions = row
    prompt = jnp.arange(8.0).reshape(2, 4)
    joined = join(embedded, prompt, positions)
    np.testing.assert_array_equal(joined[:, 1:3], jnp.stack([prompt, prompt]))
    np.testing.assert_array_equal(joined[:, 0], embedded[:, 0])
    np.testing.assert_array_equal(joined[:, 3:], embedded[:, 3:])


def test_join_picks_from_the_bank_by_row_and_by_position(row):
    embedded, positions = row
    bank = jnp.arange(24.0).reshape(3, 2, 4)
    ids = jnp.array([2, 0])
    by_row = join(embedded, bank, positions, ids)
    for i, prompt_id in enumerate(ids):
        alone = join(embedded[i : i + 1], bank[prompt_id], positions[i : i + 1])
        np.testing.assert_array_equal(by_row[i], alone[0])
    by_position = join(embedded, bank, positions, jnp.broadcast_to(ids[:, None], positions.shape))
    np.testing.assert_array_equal(by_position, by_row)


def test_join_casts_the_prompt_to_the_activations_dtype(row):
    embedded, positions = row
    joined = join(embedded.astype(jnp.bfloat16), jnp.ones((2, 4)), positions)
    assert joined.dtype == jnp.bfloat16


def test_gradient_reaches_only_the_prompts_in_use(row):
    embedded, positions = row
    bank = jnp.ones((3, 2, 4))
    gradient = jax.grad(lambda b: join(embedded, b, positions, jnp.array([2, 2])).sum())(bank)
    np.testing.assert_array_equal(gradient[2], jnp.full((2, 4), 2.0))  # each row used twice
    np.testing.assert_array_equal(gradient[:2], jnp.zeros((2, 2, 4)))


def test_join_errors(row, wrong_arrays):
    embedded, positions = row
    with pytest.raises(ValueError, match="8 wide but the model's embeddings are 4 wide"):
        join(embedded, jnp.ones((2, 8)), positions)
    with pytest.raises(ValueError, match="This bank holds 3 prompts: pass prompt_ids"):
        join(embedded, jnp.ones((3, 2, 4)), positions)
