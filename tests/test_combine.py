"""Prompts made from prompts."""

import numpy as np
import pytest

from prompt_tuning_jax import TunedPrompt, load_prompt, save_prompt
from prompt_tuning_jax.combine import average, compose, interpolate
from prompt_tuning_jax.commands.combine import main


def prompt(length=3, seed=0, layout="prefix", width=4, **facts):
    values = np.random.default_rng(seed).normal(size=(length, width)).astype(np.float32)
    return TunedPrompt(values, layout, facts)


A, B, C = (prompt(seed=seed) for seed in range(3))


def test_average():
    mean = (A.values + B.values + C.values) / 3
    np.testing.assert_allclose(average([A, B, C]).values, mean, rtol=1e-6)
    weighted = average([A, B], [3, 1]).values
    np.testing.assert_allclose(weighted, 0.75 * A.values + 0.25 * B.values, rtol=1e-6)
    np.testing.assert_array_equal(average([A, A, A]).values, A.values)


def test_interpolate():
    np.testing.assert_array_equal(interpolate(A, B, 0).values, A.values)
    np.testing.assert_array_equal(interpolate(A, B, 1).values, B.values)
    middle = interpolate(A, B, 0.5).values
    np.testing.assert_allclose(middle, average([A, B]).values)
    beyond = interpolate(A, B, 2).values
    np.testing.assert_allclose(beyond, 2 * B.values - A.values, rtol=1e-5)


def test_compose_stacks_rows_and_answers_for_the_last():
    whole = compose([A, prompt(2, 5, task="mine", verbalizers=["yes", "no"])])
    assert whole.shape == (5, 4)
    np.testing.assert_array_equal(whole.values[:3], A.values)
    assert whole.metadata == {"task": "mine", "verbalizers": ["yes", "no"]}


def test_a_composed_prompt_is_both_parts_in_a_row(model):
    one, two = prompt(2, 1, width=16), prompt(3, 2, width=16)
    tokens, decoder = np.array([[5, 6, 1]]), np.array([[0, 7]])
    both = model.logits(tokens, decoder, compose([one, two]))
    by_hand = model.logits(tokens, decoder, np.concatenate([one.values, two.values]))
    np.testing.assert_array_equal(both, by_hand)
    assert np.abs(both - model.logits(tokens, decoder, compose([two, one]))).max() > 1e-3


def test_facts_stay_where_all_parts_share_them():
    shared = {"base_model": "m", "base_model_fingerprint": "f", "task": "t"}
    shared |= {"input_template": "{text}", "feature_lengths": {"inputs": 64, "targets": 4}}
    shared |= {"pooling": ["mean"], "pool_prompt": True, "sides": "query"}
    one, other = prompt(**shared, step=3), prompt(seed=1, **(shared | {"task": "u"}), step=3)
    assert average([one, one]).metadata == compose([one, one]).metadata == shared
    del shared["task"]
    assert average([one, other]).metadata == shared


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: average([A, prompt(2)]), r"one shape.*\[3, 4\], \[2, 4\]"),
        (lambda: average([]), "at least one"),
        (lambda: average([A, B], [1, -1]), "sum to 0"),
        (lambda: average([A, B], [1]), "2 prompts but 1 weights"),
        (lambda: average([A, prompt(layout="suffix")]), "differ in layout: prefix, suffix"),
        (lambda: compose([A, prompt(width=5)]), "one width"),
        (lambda: compose([]), "no prompts"),
        (
            lambda: compose(
                [prompt(base_model_fingerprint="f"), prompt(base_model_fingerprint="g")]
            ),
            "different models",
        ),
    ],
)
def test_what_cannot_be_combined(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("arguments", "expected", "options"),
    [
        (["average", "a", "b"], average([A, B]), {}),
        (
            ["average", "a", "b", "--weights", "3", "1"],
            average([A, B], [3, 1]),
            {"weights": [3, 1]},
        ),
        (["interpolate", "a", "b", "--at", "0.25"], interpolate(A, B, 0.25), {"at": 0.25}),
        (["interpolate", "a", "b", "--at", "0"], A, {"at": 0}),
        (["compose", "a", "b"], compose([A, B]), {}),
    ],
)
def test_the_command(tmp_path, monkeypatch, capsys, arguments, expected, options):
    monkeypatch.chdir(tmp_path)
    save_prompt("a", A)
    save_prompt("b", B)
    main([*arguments, "--output", "out"])
    written = load_prompt("out")
    np.testing.assert_array_equal(written.values, expected.values)
    made_by = {"way": arguments[0], "of": ["a", "b"], **options}
    assert written.metadata["combined_from"] == made_by
    assert capsys.readouterr().out == f"out: {list(expected.shape)}, prefix\n"
