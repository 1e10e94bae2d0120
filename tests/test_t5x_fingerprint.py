"""The fingerprint of a T5X checkpoint, kept beside it."""

import json
import logging

import pytest
import t5x_goldens
import tiny

from prompt_tuning_jax import load_model
from prompt_tuning_jax.checkpoints import t5x
from prompt_tuning_jax.checkpoints.t5x import hash_cache
from prompt_tuning_jax.checkpoints.t5x.hash_cache import checkpoint_fingerprint
from prompt_tuning_jax.params import flatten

KEPT = ".checkpoint_3.fingerprint.json"


@pytest.fixture(params=["legacy", "orbax", "scanned_orbax"])
def checkpoint(request, tmp_path):
    return t5x_goldens.unpack(request.param, tmp_path)


@pytest.fixture
def hashed(monkeypatch):
    """The checkpoints whose weights were hashed."""
    seen = []
    hash_weights = hash_cache._hash

    def remember(found):
        seen.append(found.path)
        return hash_weights(found)

    monkeypatch.setattr(hash_cache, "_hash", remember)
    return seen


def test_it_is_that_of_the_loaded_model(checkpoint):
    assert checkpoint_fingerprint(checkpoint) == load_model(checkpoint).fingerprint


def test_it_is_hashed_once(checkpoint, hashed):
    first = checkpoint_fingerprint(checkpoint)
    assert checkpoint_fingerprint(f"{checkpoint}/") == first
    assert len(hashed) == 1
    (kept,) = checkpoint.parent.glob(".*.json")
    assert json.loads(kept.read_text())["fingerprint"] == first
    kept.write_text("{damaged")
    assert checkpoint_fingerprint(checkpoint) == first
    assert len(hashed) == 2


@pytest.mark.parametrize("form", ["legacy", "orbax"])
def test_a_checkpoint_that_is_written_again_is_hashed_again(vocabulary, tmp_path, form):
    config = tiny.make_config(vocabulary)
    found = []
    for seed in (0, 1):
        place = t5x.save(tmp_path / str(seed), tiny.make_params(config, seed), 3, form)
        here = tmp_path / "checkpoint_3"
        if here.exists():
            here.rename(tmp_path / "old")
        place.rename(here)
        found.append(checkpoint_fingerprint(here))
    assert (tmp_path / KEPT).is_file()
    assert found[0] != found[1]


def test_a_prompt_in_it_does_not_count(vocabulary, tmp_path):
    params = flatten(tiny.make_params(tiny.make_config(vocabulary)))
    alone = t5x.save(tmp_path / "alone", params)
    for name in ("encoder/prompt/prompt", "encoder/prompt/prompt/prompt", "decoder/prompt/prompt"):
        tuned = t5x.save(tmp_path / name.replace("/", "_"), params | {name: tiny.np.ones((2, 16))})
        assert checkpoint_fingerprint(tuned) == checkpoint_fingerprint(alone)


def test_where_nothing_can_be_written_it_is_found_all_the_same(checkpoint, monkeypatch, caplog):
    def refuse(self, key, data):
        raise ValueError(f"{self.name}/{key} cannot be written: read only")

    monkeypatch.setattr(hash_cache.Storage, "write", refuse)
    with caplog.at_level(logging.WARNING):
        assert checkpoint_fingerprint(checkpoint) == load_model(checkpoint).fingerprint
    assert "The next run hashes the weights again" in caplog.text
