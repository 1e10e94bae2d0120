"""Where prompts stand: every layout, in numpy and under jit, and its errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_jax import layout

TOKENS = np.array([[7, 8, 9, 1], [7, 8, 1, 0], [7, 8, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], np.int32)
P1, P2 = -7, -8  # the two prompt rows, as `merged` shows them

EXPECTED = {
    "prefix": [
        [P1, P2, 7, 8, 9, 1],
        [P1, P2, 7, 8, 1, 0],
        [P1, P2, 7, 8, 0, 0],
        [P1, P2, 1, 0, 0, 0],
        [P1, P2, 0, 0, 0, 0],
    ],
    "after_bos": [
        [7, P1, P2, 8, 9, 1],
        [7, P1, P2, 8, 1, 0],
        [7, P1, P2, 8, 0, 0],
        [1, P1, P2, 0, 0, 0],
        [P1, P2, 0, 0, 0, 0],
    ],
    "suffix": [
        [7, 8, 9, 1, P1, P2],
        [7, 8, 1, P1, P2, 0],
        [7, 8, P1, P2, 0, 0],
        [1, P1, P2, 0, 0, 0],
        [P1, P2, 0, 0, 0, 0],
    ],
    "suffix_before_eos": [
        [7, 8, 9, P1, P2, 1],
        [7, 8, P1, P2, 1, 0],
        [7, 8, P1, P2, 0, 0],
        [P1, P2, 1, 0, 0, 0],
        [P1, P2, 0, 0, 0, 0],
    ],
}


def merged(tokens, positions):
    """Tokens and prompt rows in one readable array; checks that no position holds both."""
    tokens, positions = np.asarray(tokens), np.asarray(positions)
    assert (tokens[positions >= 0] == 0).all()
    return np.where(positions >= 0, P1 - positions, tokens).tolist()


@pytest.mark.parametrize("name", layout.LAYOUTS)
def test_every_layout_in_numpy(name):
    tokens, positions = layout.place_prompt(TOKENS, 2, name)
    assert isinstance(tokens, np.ndarray)
    assert tokens.dtype == positions.dtype == np.int32
    assert merged(tokens, positions) == EXPECTED[name]


@pytest.mark.parametrize("name", layout.LAYOUTS)
def test_jit_equals_numpy(name):
    place = jax.jit(functools.partial(layout.place_prompt, prompt_length=2, layout=name))
    tokens, positions = place(jnp.asarray(TOKENS))
    assert tokens.dtype == jnp.int32
    assert merged(tokens, positions) == EXPECTED[name]


@pytest.mark.parametrize("name", layout.LAYOUTS)
def test_no_prompt_leaves_rows_alone(name):
    tokens, positions = layout.place_prompt(TOKENS, 0, name)
    np.testing.assert_array_equal(tokens, TOKENS)
    assert (positions == -1).all()


def test_suffix_follows_the_last_token_even_after_a_zero():
    tokens, positions = layout.place_prompt(np.array([[5, 0, 6, 0]]), 1, "suffix")
    assert merged(tokens, positions) == [[5, 0, 6, P1, 0]]


def test_another_eos_id():
    tokens, positions = layout.place_prompt(np.array([[5, 2, 0]]), 1, "suffix_before_eos", eos_id=2)
    assert merged(tokens, positions) == [[5, P1, 2, 0]]


def test_attended_is_tokens_and_prompt():
    tokens, positions = layout.place_prompt(TOKENS, 2, "suffix")
    expected = np.array(EXPECTED["suffix"]) != 0
    np.testing.assert_array_equal(layout.attended(tokens, positions), expected)
    np.testing.assert_array_equal(layout.attended(TOKENS), TOKENS > 0)


def test_segments_keep_packed_examples_apart():
    queries, keys = np.array([[1, 2]]), np.array([[1, 1, 2, 0]])
    mask = np.array([[[True, False, True, True]]])
    apart = layout.within_segments(mask, queries, keys)
    assert apart.tolist() == [[[True, False, False, False], [False, False, True, False]]]
    assert layout.within_segments(mask, None, None) is mask


@pytest.mark.parametrize(
    ("tokens", "length", "name", "message"),
    [
        (TOKENS, 2, "postfix", "Unknown prompt layout 'postfix': choose from prefix, after_bos"),
        (TOKENS, -1, "prefix", "cannot be negative: -1"),
        (TOKENS[0], 2, "prefix", r"shape \[batch, length\].*got int32\[4\]"),
        (TOKENS.astype(np.float32), 2, "prefix", r"got float32\[5, 4\]"),
        (TOKENS[:, :0], 2, "prefix", "length 1 or more"),
    ],
)
def test_errors_name_the_problem(wrong_arrays, tokens, length, name, message):
    with pytest.raises(ValueError, match=message):
        layout.place_prompt(tokens, length, name)
