"""Laws of the search algorithms, on hand-made steps small enough to list every sequence."""

import collections
import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_jax.decoding import search

GOLDENS = Path(__file__).parent / "goldens"
EOS = 1


def random_tables(rows, vocab, max_length, sharpness=1.0, seed=0):
    """Log-probabilities [rows, step, prefix, vocab]; a prefix is a number in base `vocab`."""
    shape = (rows, max_length, vocab ** (max_length - 1), vocab)
    logits = sharpness * np.random.default_rng(seed).normal(size=shape)
    return np.asarray(jax.nn.log_softmax(logits), np.float32)


def table_step(tables):
    """A step that reads the tables, and the cache it starts with."""
    tables = jnp.asarray(tables)

    def step(cache, tokens):
        row, number = cache["row"], cache["step"]
        prefix = cache["prefix"] * tables.shape[-1] + tokens  # the start token is 0
        return tables[row, number, prefix], {"row": row, "prefix": prefix, "step": number + 1}

    rows = jnp.arange(len(tables))
    return step, {"row": rows, "prefix": 0 * rows, "step": jnp.int32(0)}


def all_sequences(tables, row, length_penalty):
    """Every sequence, ended by EOS or the greatest length, as (tokens, score), best first."""
    _, max_length, _, vocab = tables.shape
    found = []
    for length in range(1, max_length + 1):
        for tokens in itertools.product(range(vocab), repeat=length):
            if EOS in tokens[:-1] or (length < max_length and tokens[-1] != EOS):
                continue
            log_prob, prefix = 0.0, 0
            for number, token in enumerate(tokens):
                log_prob += float(tables[row, number, prefix, token])
                prefix = prefix * vocab + token
            padded = tokens + (0,) * (max_length - length)
            found.append((padded, log_prob / length**length_penalty))
    return sorted(found, key=lambda item: -item[1])


@functools.partial(jax.jit, static_argnames=("beams", "late_finishers", "early_stopping"))
def run_beams(tables, beams, length_penalty=0.0, late_finishers=False, early_stopping=False):
    step, cache = table_step(tables)
    return search.beam_search(
        search.over_beams(step, cache),
        cache,
        batch=len(tables),
        beams=beams,
        max_length=tables.shape[1],
        eos_id=EOS,
        length_penalty=length_penalty,
        late_finishers=late_finishers,
        early_stopping=early_stopping,
    )


@jax.jit
def run_greedy(tables, length_penalty=0.0):
    step, cache = table_step(tables)
    return search.one_sequence(
        step,
        cache,
        search.greedy,
        batch=len(tables),
        max_length=tables.shape[1],
        eos_id=EOS,
        length_penalty=length_penalty,
    )


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0, -0.5])
def test_enough_beams_find_every_sequence_in_order(length_penalty):
    tables = random_tables(rows=3, vocab=3, max_length=4)
    tokens, scores = run_beams(tables, 3**4, length_penalty)
    for row in range(3):
        expected = all_sequences(tables, row, length_penalty)
        assert [tuple(x) for x in tokens[row, : len(expected)].tolist()] == [x for x, _ in expected]
        np.testing.assert_allclose(scores[row, : len(expected)], [x for _, x in expected], 1e-5)
        assert np.all(np.isneginf(scores[row, len(expected) :]))
        assert not np.any(tokens[row, len(expected) :])


def tables_of(entries, max_length, vocab=3):
    """Tables of one row with the given {prefix: probabilities}, and elsewhere even ones."""
    tables = np.full((1, max_length, vocab ** (max_length - 1), vocab), 1 / vocab)
    for prefix, probabilities in entries.items():
        number = sum(token * vocab**i for i, token in enumerate(reversed(prefix)))
        tables[0, len(prefix), number] = probabilities
    return np.log(tables).astype(np.float32)


def test_length_penalty_changes_which_length_wins():
    tables = tables_of(
        {(): [0.1, 0.35, 0.55], (2,): [0.05, 0.05, 0.9], (2, 2): [0.1, 0.6, 0.3]}, max_length=4
    )
    winners = {0.0: [1, 0, 0, 0], 1.0: [2, 2, 1, 0]}  # 0.35 against 0.55 * 0.9 * 0.6 = 0.297
    for length_penalty, winner in winners.items():
        tokens, scores = run_beams(tables, 4, length_penalty)
        best, score = all_sequences(tables, 0, length_penalty)[0]
        assert tokens[0, 0].tolist() == list(best) == winner
        np.testing.assert_allclose(scores[0, 0], score, rtol=1e-5)


def test_a_row_stops_once_its_live_hypothesis_does_not_beat_a_full_set_of_finished_ones():
    # With one beam, the first EOS ends the search, though going on would have scored better.
    certain = [1e-6, 1e-6, 1 - 2e-6]
    tables = tables_of({(): [0.01, 0.5, 0.49], (2,): certain, (2, 2): certain}, max_length=3)
    tokens, scores = run_beams(tables, 1, length_penalty=1.0)
    assert tokens[0, 0].tolist() == [1, 0, 0]
    np.testing.assert_allclose(scores[0, 0], np.log(0.5), rtol=1e-5)
    best, score = all_sequences(tables, 0, 1.0)[0]
    assert best == (2, 2, 2)
    tokens, scores = run_beams(tables, 1, length_penalty=1.0, early_stopping="never")
    assert tokens[0, 0].tolist() == list(best)
    np.testing.assert_allclose(scores[0, 0], score, rtol=1e-5)


def test_late_finishers_end_even_when_others_are_likelier():
    # With one beam EOS is the second choice at first, and the better answer in the end.
    tables = tables_of({(): [0.05, 0.45, 0.5]}, max_length=3)
    tokens, _ = run_beams(tables, 1)
    assert tokens[0, 0, 0] == 2
    tokens, scores = run_beams(tables, 1, late_finishers=True)
    assert tokens[0, 0].tolist() == [1, 0, 0]
    np.testing.assert_allclose(scores[0, 0], np.log(0.45), rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_is_greedy(seed):
    tables = random_tables(rows=5, vocab=4, max_length=5, sharpness=2.0, seed=seed)
    beam_tokens, beam_scores = run_beams(tables, 1)
    tokens, scores = run_greedy(tables)
    np.testing.assert_array_equal(beam_tokens[:, 0], tokens)
    np.testing.assert_allclose(beam_scores[:, 0], scores, rtol=1e-6)


def test_greedy_pads_after_eos_and_does_not_score_it():
    tables = random_tables(rows=16, vocab=3, max_length=5)
    tokens, scores = run_greedy(tables, length_penalty=1.0)
    ended = False
    for row in range(16):
        tokens_of_row = tuple(tokens[row].tolist())
        listed = dict(all_sequences(tables, row, 1.0))
        np.testing.assert_allclose(scores[row], listed[tokens_of_row], rtol=1e-5)
        ended |= EOS in tokens_of_row[:-1]
    assert ended


def test_rows_do_not_influence_each_other():
    tables = random_tables(rows=6, vocab=4, max_length=5, sharpness=2.0)
    tokens, scores = run_beams(tables, 3, 1.0)
    for row in range(6):
        alone, score = run_beams(tables[row : row + 1], 3, 1.0)
        np.testing.assert_array_equal(tokens[row], alone[0])
        np.testing.assert_array_equal(scores[row], score[0])


def test_loop_ends_when_every_row_has_ended():
    steps = []

    def step(cache, tokens):
        jax.debug.callback(lambda: steps.append(1))
        return jnp.log(jnp.array([[0.1, 0.8, 0.1]])) + 0.0 * tokens[:, None].astype(
            jnp.float32
        ), cache

    settings = {"batch": 1, "max_length": 50, "eos_id": EOS}
    search.one_sequence(step, jnp.zeros(1), search.greedy, **settings)
    jax.effects_barrier()
    assert len(steps) == 1
    steps.clear()
    cache = jnp.zeros(1)
    search.beam_search(search.over_beams(step, cache), cache, beams=2, **settings)
    jax.effects_barrier()
    assert len(steps) <= 3 * 2  # the callback may run for each beam


def test_warped_logits_are_those_of_transformers():
    goldens = np.load(GOLDENS / "decoding" / "transformers_eos.npz")
    names = [name for name in goldens if name.startswith("warped_")]
    assert len(names) == 6
    for name in names:
        temperature, top_k, top_p = (part[1:] for part in name.split("_")[1:])
        warped = search.warp_logits(goldens["logits"], float(temperature), int(top_k), float(top_p))
        np.testing.assert_allclose(warped, goldens[name], rtol=1e-6, err_msg=name)


@functools.partial(jax.jit, static_argnums=1)
def sample(tables, warp, keys):
    """Samples a sequence of row 0 for each key."""
    step, cache = table_step(jnp.broadcast_to(tables[:1], (len(keys), *tables.shape[1:])))
    choose = search.sampler(keys, *warp)
    return search.one_sequence(
        step, cache, choose, batch=len(keys), max_length=tables.shape[1], eos_id=EOS
    )


@pytest.mark.parametrize("warp", [(1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 3, 1.0), (1.5, 0, 0.7)])
def test_sampled_frequencies_are_the_exact_ones(warp):
    copies = 20_000
    tables = random_tables(rows=1, vocab=4, max_length=2)
    warped = search.warp_logits(tables.reshape(-1, 4), *warp).reshape(tables.shape)
    warped = np.asarray(jax.nn.log_softmax(warped))
    exact = {tokens: np.exp(score) for tokens, score in all_sequences(warped, 0, 0.0)}
    tokens, scores = sample(tables, warp, jax.random.split(jax.random.key(0), copies))
    counts = collections.Counter(map(tuple, np.asarray(tokens).tolist()))
    assert sum(exact.values()) == pytest.approx(1.0, abs=1e-5)
    for sequence, probability in exact.items():
        deviation = 5 * np.sqrt(copies * probability * (1 - probability))
        assert abs(counts[sequence] - copies * probability) <= deviation, sequence
    # Scores are the model's own log-probabilities, not those of the warped distribution.
    own = dict(all_sequences(tables, 0, 0.0))
    expected = [own[tuple(row)] for row in np.asarray(tokens[:50]).tolist()]
    np.testing.assert_allclose(scores[:50], expected, rtol=1e-5)


def test_sampling_repeats_with_the_same_keys_only():
    tables = random_tables(rows=1, vocab=4, max_length=2)
    keys = [jax.random.split(jax.random.key(seed), 200) for seed in (0, 0, 1)]
    first, again, other = (sample(tables, (1.0, 0, 1.0), key)[0] for key in keys)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
