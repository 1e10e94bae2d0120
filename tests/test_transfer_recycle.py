"""Prompts carried from one model's embedding space into another's."""

import dataclasses
import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_jax import TunedPrompt, load_prompt, load_vocabulary, recycle, save_prompt
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED_MODELS
from prompt_tuning_jax.commands.transfer import recycle as command
from prompt_tuning_jax.params import flatten, unflatten
from prompt_tuning_jax.training.transfer.embedding_maps import (
    fit_linear,
    fit_network,
    relative_error,
)
from prompt_tuning_jax.training.transfer.recycling import fit, shared_pieces


def rows(seed, count=60, width=6):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def vocabulary(*pieces, first=3, extra_ids=0):
    """Pieces with ids from 3 on, behind padding, the end and the unknown; extra ids come last."""
    ids = ["<pad>", "</s>", "<unk>", *pieces]
    return SimpleNamespace(
        special=(0, 1, 0, None, 2),
        prefix=(),
        suffix=(1,),
        extra_ids=extra_ids,
        pieces=len(ids),
        id_to_piece=ids.__getitem__,
        sentinel=lambda i: len(ids) - extra_ids + i,
    )


# --- the maps


@pytest.mark.parametrize("wide", [4, 6, 9])
def test_a_linear_relation_is_found_whatever_the_widths(wide):
    source, weights, offset = rows(0), rows(1, 6, wide), rows(2, 1, wide)
    far = 20 * rows(3, 5)
    plain = fit_linear(source, source @ weights, intercept=False, seed=0)
    np.testing.assert_allclose(plain(far), far @ weights, atol=1e-3)
    moved = fit_linear(source, source @ weights + offset, intercept=True, seed=0)
    np.testing.assert_allclose(moved(far), far @ weights + offset, atol=1e-3)


def test_the_linear_map_is_the_best_one():
    """Least squares: what is left of the targets is at right angles to the sources."""
    source, target = rows(0), rows(1, width=3)
    for intercept in (False, True):
        apply = fit_linear(source, target, intercept=intercept, seed=0)
        left = target - apply(source)
        np.testing.assert_allclose(source.T @ left, 0, atol=1e-4)
        assert np.allclose(left.sum(axis=0), 0, atol=1e-4) == intercept


def test_a_network_finds_what_a_linear_map_cannot():
    source = rows(0, 600)
    target = np.abs(source[:, :3]) + 3
    held_out = {
        name: fit(source, target, name, True, 0)[1]["held_out_error"]
        for name in ("linear", "network")
    }
    assert held_out["network"] < 0.2 < 0.8 < held_out["linear"]


@pytest.mark.slow
def test_a_network_is_the_same_for_the_same_seed():
    given = rows(0), rows(1)
    one, again, other = (fit_network(*given, intercept=False, seed=s)(rows(2)) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3


def test_errors_are_shares_of_the_variance():
    wanted = rows(0)
    assert relative_error(wanted, wanted) == 0
    assert relative_error(np.broadcast_to(wanted.mean(0), wanted.shape), wanted) == pytest.approx(1)
    assert relative_error(wanted + 3, wanted) == pytest.approx(9 * wanted.size / _spread(wanted))


def _spread(x):
    return np.square(x.astype(float) - x.mean(axis=0)).sum()


def test_the_held_out_error_is_of_rows_that_the_map_has_not_seen():
    source, target = rows(0, 100, 80), rows(1, 100, 4)  # almost as many weights as rows
    _, errors = fit(source, target, "linear", False, 0)
    assert errors["fit_error"] < 0.3
    assert errors["held_out_error"] > 1.5


# --- the pieces


def test_pieces_are_shared_by_their_text_and_special_tokens_are_not():
    one = vocabulary("a", "b", "c", "b", "x", extra_ids=1)
    other = vocabulary("c", "b", "z", "a", "b", "x")
    shared = shared_pieces(one, other)
    assert shared.source.tolist() == [3, 4, 5]
    assert shared.target.tolist() == [6, 4, 3]
    assert shared_pieces(one, other, most=2).target.tolist() == [6, 4]


def test_the_bundled_models_share_their_pieces():
    one, other = (load_vocabulary(BUNDLED_MODELS[name]) for name in ("bundled", "bundled_causal"))
    pairs = list(zip(*shared_pieces(one, other), strict=True))
    assert len(pairs) > 4000
    for i, j in pairs:
        assert one.id_to_piece(int(i)) == other.id_to_piece(int(j))


# --- the prompt


def changed(model, table, name):
    """Another model: its embeddings are `table`, the rest as it is."""
    flat = flatten(model.params)
    flat["token_embedder/embedding"] = jnp.asarray(table, jnp.float32)
    return model.replace(params=unflatten(flat), name=name)


@pytest.fixture(scope="module")
def source(model):
    return model.replace(name="first")


@pytest.fixture(scope="module")
def prompt(source):
    facts = {"base_model": "first", "task": "food", "verbalizers": ["yes", "no"], "step": 3}
    facts |= {"base_model_fingerprint": source.fingerprint, "scores": {"accuracy": 80.0}}
    return TunedPrompt(10 * rows(7, 3, 16), metadata=facts)


def test_a_prompt_goes_the_way_of_the_pieces(source, prompt):
    turn, _ = np.linalg.qr(rows(5, 16, 16))
    target = changed(source, np.asarray(source.embeddings) @ turn, "turned")
    made = recycle(prompt, source, target)
    np.testing.assert_allclose(made.values, prompt.values @ turn, atol=1e-3)
    target.check(made)
    with pytest.raises(ValueError, match="tuned for turned"):
        source.check(made)
    assert made.metadata["task"] == "food"
    assert made.metadata["verbalizers"] == ["yes", "no"]
    assert not {"scores", "step"} & made.metadata.keys()
    done = made.metadata["recycled"]
    assert done["from_model"] == "first"
    assert done["from_fingerprint"] == source.fingerprint
    assert done["embedding_map"] == "linear"
    assert done["held_out_error"] < 1e-6


def test_where_nothing_is_in_common_it_says_so(source, prompt):
    stranger = changed(source, rows(6, *source.embeddings.shape), "stranger")
    with pytest.warns(UserWarning, match=r"carries nothing over.* first and stranger"):
        made = recycle(prompt, source, stranger, pieces=25)
    assert made.metadata["recycled"]["pieces"] == 25


def test_layout_and_visibility_stay(source, prompt):
    other = dataclasses.replace(prompt, layout="suffix", visibility="isolated")
    made = recycle(other, source, source)
    assert (made.layout, made.visibility) == ("suffix", "isolated")
    np.testing.assert_allclose(made.values, prompt.values, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_map": "cubic"}, "embedding_map is one of linear, network, not 'cubic'"),
        ({"pieces": 19}, "pieces=19: a map is fitted on at least 20"),
        ({"embedding_map": "network", "intercept": True}, "intercept is of a linear map"),
        ({"prompt": "bundled_topic"}, "192 wide, the model 16"),
        ({"model": "other"}, "tuned for first"),
    ],
)
def test_what_is_refused(source, prompt, options, message):
    if "model" in options:
        options = {"model": changed(source, rows(6, *source.embeddings.shape), "other")}
    given = {"prompt": prompt, "model": source, "target_model": source} | options
    with pytest.raises(ValueError, match=message):
        recycle(**given)


def test_vocabularies_with_few_pieces_in_common_are_refused(source, prompt):
    few = [source.vocabulary.id_to_piece(i) for i in range(3, 12)]
    stranger = source.replace(vocabulary=vocabulary(*few))
    with pytest.raises(ValueError, match=r"have 9 pieces in common; a map .* needs at least 20"):
        recycle(prompt, source, stranger)


def test_a_model_without_a_vocabulary_is_refused(source, prompt):
    with pytest.raises(ValueError, match="first has no vocabulary, so it cannot compare text"):
        recycle(prompt, source.replace(vocabulary=None), source)


def test_the_command_writes_the_prompt_and_says_what_was_done(
    model_dir, source, prompt, tmp_path, capsys
):
    place = save_prompt(tmp_path / "mine", prompt)
    words = f"{place} --model {model_dir} --target_model {model_dir} --output {tmp_path}/new"
    command.main([*words.split(), "--pieces", "25", "--intercept"])
    told, line = capsys.readouterr().out.splitlines()
    made = load_prompt(tmp_path / "new")
    assert json.loads(told) == made.metadata["recycled"]
    assert made.metadata["recycled"]["intercept"] is True
    assert made.metadata["recycled"]["from_prompt"] == str(place)
    assert line == f"{tmp_path}/new: recycled, [3, 16], prefix, for {model_dir}"
