"""What a prompt may see: masks by hand, and isolated prompts computed once against the mask."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import GOLDEN_CONFIG, slow

from prompt_tuning_jax.layout import LAYOUTS, VISIBILITIES, place_prompt, prompt_mask
from prompt_tuning_jax.models.t5 import T5Config, Transformer
from prompt_tuning_jax.models.t5.scan import stack_layers
from prompt_tuning_jax.prompts import Prompt, PromptBank

P, N = 4, 3
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(2, 128, (5, 7)).astype(np.int32)
TOKENS[1, 5:] = 0
TOKENS[2, 1:] = 0
TARGETS = RNG.integers(2, 128, (5, 3)).astype(np.int32)
BANK = RNG.normal(size=(N, P, 16)).astype(np.float32)
IDS = np.array([2, 0, 1, 1, 0])
ISOLATED = [name for name in VISIBILITIES if name.startswith("isolated")]


def config(visibility, **changes):
    return dataclasses.replace(GOLDEN_CONFIG, prompt_visibility=visibility, **changes)


@functools.cache
def plain_params():
    network = Transformer(GOLDEN_CONFIG)
    init = jax.jit(functools.partial(network.init, enable_dropout=False))
    return init(jax.random.key(0), TOKENS, TARGETS, TARGETS)["params"]


def params(prompt, scanned=False):
    plain = stack_layers(plain_params()) if scanned else plain_params()
    return {**plain, "encoder": {**plain["encoder"], "prompt": {"prompt": prompt}}}


def network(visibility, bank=False, **changes):
    make = functools.partial(PromptBank, N, P) if bank else functools.partial(Prompt, P)
    return Transformer(config(visibility, **changes), prompt=make)


@functools.partial(jax.jit, static_argnums=0)
def logits(net, params, tokens, **places):
    return net.apply({"params": params}, tokens, TARGETS, TARGETS, enable_dropout=False, **places)


@functools.partial(jax.jit, static_argnums=0)
def encode(net, params, tokens, **places):
    return net.apply({"params": params}, tokens, enable_dropout=False, method="encode", **places)


def placed(layout="prefix", tokens=TOKENS):
    joined, positions = place_prompt(tokens, P, layout)
    return joined, {"prompt_positions": positions}


def sees(visibility, query, key):
    """The rules in words, for prompt rows (0 and up) and tokens (-1)."""
    if query < 0:
        return True
    if key < 0:
        return "isolated" not in visibility
    if "causal" in visibility:
        return key <= query
    if "self" in visibility:
        return key == query
    return True


@pytest.mark.parametrize("visibility", VISIBILITIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_follow_the_rules(visibility, layout):
    _, positions = place_prompt(TOKENS, P, layout)
    mask = np.broadcast_to(prompt_mask(positions, positions, visibility), (5, 11, 11))
    for b in range(5):
        for i, query in enumerate(positions[b]):
            for j, key in enumerate(positions[b]):
                assert mask[b, i, j] == sees(visibility, query, key)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("visibility", "scan_layers"),
    [(name, scan) for name in ISOLATED for scan in (False, True)],
)
def test_prompts_computed_once_equal_the_masked_computation(visibility, scan_layers):
    net, weights = network(visibility, scan_layers=scan_layers), params(BANK[0], scan_layers)
    joined, places = placed()
    np.testing.assert_allclose(
        logits(net, weights, TOKENS), logits(net, weights, joined, **places), atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("visibility", ISOLATED)
def test_so_do_banks(visibility):
    net, weights = network(visibility, bank=True), params(BANK)
    joined, places = placed()
    once = logits(net, weights, TOKENS, prompt_ids=IDS)
    np.testing.assert_allclose(
        once, logits(net, weights, joined, prompt_ids=IDS, **places), atol=1e-5
    )
    for row, prompt_id in enumerate(IDS):
        alone = logits(network(visibility), params(BANK[prompt_id]), TOKENS)
        np.testing.assert_allclose(once[row], alone[row], atol=1e-5)


@pytest.mark.parametrize("visibility", [*map(slow, ISOLATED[:-1]), ISOLATED[-1]])
@pytest.mark.slow
def test_so_do_gradients(visibility):
    net = network(visibility)
    joined, places = placed()

    def total(prompt, tokens, **places):
        return jnp.sum(jnp.sin(logits(net, params(prompt), tokens, **places)))

    once = jax.grad(total)(BANK[0], TOKENS)
    masked = jax.grad(total)(BANK[0], joined, **places)
    np.testing.assert_allclose(once, masked, atol=1e-5 * np.abs(masked).max())


def test_the_whole_bank_costs_its_rows_once():
    """The compiled encoder multiplies N * P prompt rows, not B * P."""

    def products(net, weights, tokens, **places):
        compiled = encode.lower(net, weights, tokens, **places).compile()
        return compiled.cost_analysis()["flops"]

    tokens = np.tile(TOKENS, (8, 1))
    joined, places = placed(tokens=tokens)
    once = products(network("isolated"), params(BANK[0]), tokens)
    masked = products(network("isolated"), params(BANK[0]), joined, **places)
    assert once < 0.8 * masked  # 40 * 7 + 4 positions instead of 40 * 11


@pytest.mark.parametrize("layout", [x if x == "suffix_before_eos" else slow(x) for x in LAYOUTS])
@pytest.mark.parametrize("visibility", VISIBILITIES)
def test_states_of_prompt_rows_depend_on_what_they_see(visibility, layout):
    net = network(visibility)

    def states(prompt, tokens):
        joined, places = placed(layout, tokens)
        encoded = encode(net, params(prompt), joined, **places)
        return np.array([encoded[0, places["prompt_positions"][0] == i][0] for i in range(P)])

    before = states(BANK[0], TOKENS)
    other_input = TOKENS.copy()
    other_input[0, 2] = 99 if TOKENS[0, 2] != 99 else 98
    moved = np.abs(states(BANK[0], other_input) - before).max(axis=1) > 1e-6
    assert moved.any() == ("isolated" not in visibility)
    other_row = BANK[0] + np.eye(P, dtype=np.float32)[2][:, None]
    moved = np.abs(states(other_row, TOKENS) - before).max(axis=1) > 1e-6
    if "isolated" in visibility:  # nothing reaches a row by way of the input
        np.testing.assert_array_equal(moved, [sees(visibility, i, 2) for i in range(P)])
    assert moved[2]


@pytest.mark.slow
def test_inputs_always_see_the_prompt():
    for visibility in VISIBILITIES:
        net = network(visibility)
        change = logits(net, params(BANK[0]), TOKENS) - logits(net, params(BANK[1]), TOKENS)
        assert np.abs(change).max() > 1e-4


@pytest.mark.slow
def test_visibilities_differ():
    found = [np.array(logits(network(name), params(BANK[0]), TOKENS)) for name in VISIBILITIES]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert np.abs(one - other).max() > 1e-5


def test_an_unknown_visibility_is_named():
    with pytest.raises(ValueError, match="'hidden'"):
        config("hidden")


def test_full_visibility_is_the_default():
    assert T5Config.prompt_visibility == "full"
