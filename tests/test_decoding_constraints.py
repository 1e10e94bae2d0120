"""Constraints on generated tokens: transformers' definitions, written out for one row at a time."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from common import assert_same, slow

from prompt_tuning_jax.decoding import generation, search
from prompt_tuning_jax.decoding.constraints import UNCONSTRAINED, Constraints, constrained
from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.models.t5 import Transformer
from prompt_tuning_jax.models.t5.scan import stack_layers
from prompt_tuning_jax.prompts import Prompt

ROWS, V, L = 6, 5, 5
PAD, EOS, OTHER_EOS = 0, 1, 4
# Inputs of the rows, padded: the tokens that encoder constraints look at.
INPUTS = np.array([[2, 3, 2], [3, 3, 0], [4, 2, 3], [2, 0, 0], [3, 2, 3], [0, 0, 0]], np.int32)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(ROWS, L, V ** (L - 1), V)).astype(np.float32) * 1.5
LOG_Z = jax.nn.logsumexp(LOGITS, axis=-1)
LOG_PROBS = np.array(LOGITS - LOG_Z[..., None])


# ---- the definitions, in plain Python --------------------------------------------------------


def processed(scores, tokens, row, c, eos_ids, continues=False):
    """Scores [V] after transformers' processors, in their order; `tokens` without the start."""
    x, text = scores.copy(), [t for t in INPUTS[row].tolist() if t]
    history = [*text, *tokens] if continues else [PAD, *tokens]

    def penalise(these, penalty):
        for token in set(these):
            x[token] = x[token] * penalty if x[token] < 0 else x[token] / penalty

    def ban_ngrams(of, size):
        for start in range(len(of) - size + 1):
            ngram = of[start : start + size]
            if len(history) >= size - 1 and ngram[:-1] == history[len(history) - size + 1 :]:
                x[ngram[-1]] = -np.inf

    penalise(text, 1 / c.encoder_repetition_penalty)
    penalise(history, c.repetition_penalty)
    if c.no_repeat_ngram:
        ban_ngrams(history, c.no_repeat_ngram)
    if c.encoder_no_repeat_ngram:
        ban_ngrams(text, c.encoder_no_repeat_ngram)
    for sequence in c.banned:
        newest = history[max(0, len(history) - len(sequence) + 1) :][: len(sequence) - 1]
        if list(sequence[:-1]) == newest:
            x[sequence[-1]] = -np.inf
    if len(tokens) < c.min_length:
        x[list(eos_ids)] = -np.inf
    if len(tokens) == 0 and c.forced_first is not None:
        x = np.where(np.arange(V) == c.forced_first, 0.0, -np.inf)
    if len(tokens) == L - 1 and c.forced_last:
        x = np.where(np.isin(np.arange(V), c.forced_last), 0.0, -np.inf)
    elif c.length_decay is not None and len(tokens) > c.length_decay[0]:
        start, factor = c.length_decay
        for token in eos_ids:
            if np.isfinite(x[token]):
                x[token] += abs(x[token]) * (factor ** (len(tokens) - start) - 1)
    if len(tokens) == (c.forced_first is not None):
        x[list(c.banned_first)] = -np.inf
    if c.renormalized:
        x = x - np.logaddexp.reduce(x)
    return x


def at(table, row, tokens):
    number = sum(token * V**i for i, token in enumerate(reversed(tokens)))
    return table[row, len(tokens), number]


def greedy(row, constraints, eos_ids, continues=False):
    tokens = []
    while len(tokens) < L and not (tokens and tokens[-1] in eos_ids):
        x = processed(at(LOGITS, row, tokens), tokens, row, constraints, eos_ids, continues)
        tokens.append(int(np.argmax(x)))
    return tokens + [PAD] * (L - len(tokens))


def beams_of(row, constraints, eos_ids, beams, length_penalty, early_stopping, continues=False):
    """transformers' beam search, as lists: (tokens, score) best first."""
    live, finished = [((), 0.0)], []
    for length in range(1, L + 1):
        found = []
        for tokens, score in live:
            scores = at(LOG_PROBS, row, tokens)
            x = processed(scores, list(tokens), row, constraints, eos_ids, continues)
            found += [((*tokens, token), score + x[token]) for token in range(V)]
        found = [one for one in found if np.isfinite(one[1])]
        found = sorted(found, key=lambda one: -one[1])[: beams * (1 + len(eos_ids))]
        ends = [tokens[-1] in eos_ids or length == L for tokens, _ in found]
        live = [one for one, end in zip(found, ends, strict=True) if not end][:beams]
        new = [one for one, end in list(zip(found, ends, strict=True))[:beams] if end]
        finished += [(tokens, score / length**length_penalty) for tokens, score in new]
        finished = sorted(finished, key=lambda one: -one[1])[:beams]
        longest = L if early_stopping == "never" and length_penalty > 0 else length
        is_full = len(finished) == beams
        if not live or (is_full and early_stopping is True):
            break
        if is_full and live[0][1] / longest**length_penalty <= finished[-1][1]:
            break
    return finished


# ---- the same, compiled ----------------------------------------------------------------------


def next_scores(cache, tokens):
    row, number = cache["row"], cache["step"]
    prefix = cache["prefix"] * V + tokens
    scores = jnp.asarray(LOG_PROBS)[row, number, prefix], jnp.asarray(LOG_Z)[row, number, prefix]
    return *scores, {"row": row, "prefix": prefix, "step": number + 1}


@functools.partial(
    jax.jit, static_argnames=("constraints", "eos_ids", "beams", "early_stopping", "continues")
)
def run(
    constraints,
    eos_ids=(EOS,),
    beams=1,
    length_penalty=1.0,
    early_stopping=False,
    continues=False,
):
    rows = jnp.arange(ROWS)
    before = np.full((ROWS, 1), PAD, np.int32), np.ones((ROWS, 1), bool)
    if continues:  # the inputs with their padding in front
        ends = np.stack([np.roll(row, np.sum(row == 0)) for row in INPUTS])
        before = ends, ends > 0
    step, cache = constrained(
        next_scores,
        {"row": rows, "prefix": 0 * rows, "step": jnp.int32(0)},
        constraints,
        of_logits=beams == 1,
        eos_ids=eos_ids,
        max_length=L,
        before=tuple(map(jnp.asarray, before)),
        inputs=(jnp.asarray(INPUTS), jnp.asarray(INPUTS > 0)),
    )
    limits = {"batch": ROWS, "max_length": L, "eos_id": eos_ids, "length_penalty": length_penalty}
    if beams == 1:
        return search.one_sequence(step, cache, search.greedy, **limits)
    step = search.over_beams(step, cache)
    return search.beam_search(step, cache, beams=beams, early_stopping=early_stopping, **limits)


CASES = {
    "none": UNCONSTRAINED,
    "forced": Constraints(forced_first=3, forced_last=(EOS,), banned_first=(2,)),
    "forced_last_two": Constraints(forced_last=(EOS, 3), min_length=9),
    "min_length": Constraints(min_length=3),
    "unigrams": Constraints(no_repeat_ngram=1),
    "bigrams": Constraints(no_repeat_ngram=2, min_length=4),
    "trigrams": Constraints(no_repeat_ngram=3, min_length=5, banned=((4,),)),
    "long_ngrams": Constraints(no_repeat_ngram=9),
    "input_unigrams": Constraints(encoder_no_repeat_ngram=1),
    "input_bigrams": Constraints(encoder_no_repeat_ngram=2, min_length=3),
    "input_ngrams": Constraints(encoder_no_repeat_ngram=4),
    "repetition": Constraints(repetition_penalty=1.7, min_length=4),
    "less_repetition": Constraints(repetition_penalty=0.5, encoder_repetition_penalty=0.6),
    "input_repetition": Constraints(encoder_repetition_penalty=2.0),
    "banned": Constraints(banned=((2,), (3, 3), (4, 3), (0, 4), (3, 4, 3)), banned_first=(4,)),
    "decay": Constraints(length_decay=(1, 1.6), forced_last=(EOS,)),
    "renormalized": Constraints(banned=((2,),), repetition_penalty=1.3, renormalized=True),
}

NAMES = list(CASES)


@pytest.mark.parametrize(
    "eos_ids", [slow((EOS,), id="one_eos"), pytest.param((OTHER_EOS, EOS), id="two_eos")]
)
@pytest.mark.parametrize("name", [*map(slow, NAMES[::2]), *NAMES[1::2]])
def test_greedy_search_is_that_of_plain_python(name, eos_ids):
    tokens, _ = run(CASES[name], eos_ids)
    expected = [greedy(row, CASES[name], eos_ids) for row in range(ROWS)]
    np.testing.assert_array_equal(tokens, expected)


@pytest.mark.parametrize("name", [*NAMES[::2], *map(slow, NAMES[1::2])])
def test_beam_search_is_that_of_plain_python(name):
    eos_ids = (OTHER_EOS, EOS) if len(name) % 2 else (EOS,)
    tokens, scores = run(CASES[name], eos_ids, beams=3)
    for row in range(ROWS):
        expected = beams_of(row, CASES[name], eos_ids, 3, 1.0, False)
        for found, score, (own, own_score) in zip(tokens[row], scores[row], expected, strict=False):
            assert found.tolist() == [*own, *[PAD] * (L - len(own))]
            np.testing.assert_allclose(score, own_score, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["repetition", "bigrams", "trigrams", "input_bigrams", "banned", "less_repetition"]
)
def test_targets_that_go_on_from_an_input_come_after_its_tokens(name):
    tokens, _ = run(CASES[name], continues=True)
    expected = [greedy(row, CASES[name], (EOS,), True) for row in range(ROWS)]
    np.testing.assert_array_equal(tokens, expected)
    tokens, scores = run(CASES[name], beams=3, continues=True)
    for row in range(ROWS):
        (own, own_score), *_ = beams_of(row, CASES[name], (EOS,), 3, 1.0, False, True)
        assert tokens[row, 0].tolist() == [*own, *[PAD] * (L - len(own))]
        np.testing.assert_allclose(scores[row, 0], own_score, atol=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 2.0, -1.0])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("constraints", [CASES["none"], CASES["bigrams"]])
def test_early_stopping_is_that_of_plain_python(early_stopping, length_penalty, constraints):
    tokens, scores = run(constraints, (EOS,), 2, length_penalty, early_stopping)
    for row in range(ROWS):
        expected = beams_of(row, constraints, (EOS,), 2, length_penalty, early_stopping)
        assert tokens[row, 0].tolist()[: len(expected[0][0])] == list(expected[0][0])
        np.testing.assert_allclose(scores[row, : len(expected)], [s for _, s in expected], 1e-5)


def test_stopping_as_soon_as_there_are_enough_makes_a_difference():
    at_once, later = (run(UNCONSTRAINED, (EOS,), 2, 2.0, early)[1] for early in (True, False))
    assert np.all(later[:, 0] >= at_once[:, 0])
    assert np.any(later[:, 0] > at_once[:, 0] + 1e-3)


@pytest.mark.slow
def test_every_constraint_changes_something():
    free = np.array(run(UNCONSTRAINED)[0])
    for name in CASES.keys() - {"none", "long_ngrams", "input_ngrams"}:
        assert not np.array_equal(run(CASES[name])[0], free), name
    for name in ("long_ngrams", "input_ngrams"):  # longer than any text
        np.testing.assert_array_equal(run(CASES[name])[0], free)


# ---- with a network --------------------------------------------------------------------------

SETTINGS = Constraints(
    no_repeat_ngram=2, encoder_no_repeat_ngram=2, repetition_penalty=1.4, min_length=5
)
TOKENS = np.array([[5, 6, 7, 5, 8, 1, 0, 0], [9, 3, 9, 3, 1, 0, 0, 0], [4, 1, 0, 0, 0, 0, 0, 0]])


@functools.cache
def network(**changes):
    config = tiny.make_config(tiny.make_vocabulary(), num_encoder_layers=2, **changes)
    params = tiny.make_params(dataclasses.replace(config, scan_layers=False), seed=3)
    params = stack_layers(params) if config.scan_layers else params
    return Transformer(config), jax.tree.map(jnp.asarray, params)


def generate(model, tokens=TOKENS, **options):
    options = {"max_length": 8, "constraints": SETTINGS, **options}
    return generation.generate_tokens(*model, tokens, **options)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_rows_do_not_influence_each_other_nor_does_padding(beams):
    tokens, scores = generate(network(), beams=beams)
    alone, score = generate(network(), TOKENS[1:2, :5], beams=beams)
    np.testing.assert_array_equal(alone[0], tokens[1])
    np.testing.assert_allclose(score[0], scores[1], rtol=1e-4)
    assert not np.any(np.array(tokens)[:, :5] == 1)
    for row in np.array(tokens):
        pairs = [pair for pair in itertools.pairwise(row.tolist()) if 0 not in pair]
        assert len(set(pairs)) == len(pairs)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_scanned_layers_and_ensembles_are_constrained_too(beams):
    expected = generate(network(), beams=beams)
    scanned = generate(network(scan_layers=True), beams=beams)
    np.testing.assert_array_equal(scanned[0], expected[0])
    assert_same(scanned[1], expected[1])
    ensemble = generate(network(), np.repeat(TOKENS, 2, axis=0), beams=beams, members=2)
    np.testing.assert_array_equal(ensemble[0], expected[0])
    assert_same(ensemble[1], expected[1])


@pytest.mark.parametrize("layout", [slow("prefix"), "after_bos", slow("suffix_before_eos")])
def test_the_input_s_own_tokens_count_and_not_its_prompt_s_places(layout):
    """Where the encoder sees nothing but what a law needs: the same prompt in another layout."""
    (plain, params), length = network(), 3
    prompt = np.zeros((length, plain.config.emb_dim), np.float32)
    params = {**params, "encoder": {**params["encoder"], "prompt": {"prompt": prompt}}}
    model = Transformer(plain.config, functools.partial(Prompt, length))
    tokens, positions = place_prompt(TOKENS, length, layout)
    only_input = Constraints(encoder_no_repeat_ngram=1)
    found, _ = generate((model, params), tokens, prompt_positions=positions, constraints=only_input)
    for row, text in zip(np.array(found), TOKENS, strict=True):
        assert not set(row.tolist()) & set(text.tolist()) - {0}


def test_a_start_token_and_ends_may_be_others_than_the_config_s():
    model = network()
    usual, _ = generate(model, constraints=UNCONSTRAINED)
    other, _ = generate(model, constraints=UNCONSTRAINED, start_id=7)
    assert not np.array_equal(usual, other)
    config = dataclasses.replace(model[0].config, start_id=7)
    expected, _ = generate((Transformer(config), model[1]), constraints=UNCONSTRAINED)
    np.testing.assert_array_equal(other, expected)
    ends = int(usual[0, 1])
    found, _ = generate(model, constraints=UNCONSTRAINED, eos_ids=(1, ends))
    first = usual[0].tolist().index(ends) + 1
    assert found[0].tolist() == usual[0, :first].tolist() + [0] * (8 - first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constraints": Constraints(min_length=-1)}, "min_length and no_repeat_ngram"),
        ({"constraints": Constraints(repetition_penalty=0.0)}, "repetition_penalty must be above"),
        ({"early_stopping": "soon"}, 'True, False or "never"'),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        generate(network(), **options)
