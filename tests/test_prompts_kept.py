"""Prompts in front of their texts that went through the layers before, as a server keeps them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causal_models import continued
from common import slow
from test_causal_laws import LEARNED, PAD, config_of, model_of, right_padded

from prompt_tuning_jax.models import family
from prompt_tuning_jax.models.causal import apply as causal
from prompt_tuning_jax.params import with_prompt

LENGTHS = (3, 1, 2)
NONE = len(LENGTHS)  # the row of what no text sees anything of
ROWS = (1, 0, NONE, 2, 1)
TEXTS = right_padded([list(range(5, 5 + n)) for n in (5, 2, 7, 1, 4)], 7)
TARGETS = right_padded([[9, 8, 7], [6, 5], [4, 3, 2], [11], [12, 13, 14]], 3)


@pytest.fixture(scope="module", params=["rotary", slow("scanned"), "learned"])
def model(request):
    model = model_of(config_of(**(LEARNED if request.param == "learned" else {})))
    return model.scanned() if request.param == "scanned" else model


@pytest.fixture(scope="module")
def prompts(model):
    rng, width = np.random.default_rng(3), model.config.emb_dim
    return [rng.normal(0, 0.5, (n, width)).astype(np.float32) for n in LENGTHS]


def logits_of(model, prompts):
    """Of the targets, by prompts that are kept: shorter ones are padded, and one is none at all."""
    values = np.zeros((NONE + 1, max(LENGTHS), model.config.emb_dim), np.float32)
    for row, prompt in zip(values, prompts, strict=False):
        row[: len(prompt)] = prompt
    batch = continued(model, TEXTS, TARGETS)
    ids = np.array(ROWS, np.int32)
    lengths = np.array([*LENGTHS, 0], np.int32)[ids]

    @jax.jit
    def both(params, values, batch):
        fronts = causal.in_front(model.config, params, values)
        network, tokens, places = causal.bind(model.config, params, batch, "prefix")
        read = causal.read(network, params, tokens, {**places, "front": (fronts, ids, lengths)})
        return causal.decode(network, params, read, batch["decoder_input_tokens"])[0]

    return both(model.params, jnp.asarray(values), batch)


def test_what_is_kept_is_what_would_be_read(model, prompts):
    found = logits_of(model, prompts)
    batch = continued(model, TEXTS, TARGETS)
    for row, number in enumerate(ROWS):
        params = model.params
        if number != NONE:
            params = with_prompt(params, jnp.asarray(prompts[number]))
        one = {name: x[row : row + 1] for name, x in batch.items()}
        alone = causal.apply(model.config, params, one)[0]
        is_target = TARGETS[row] != PAD
        np.testing.assert_allclose(found[row][is_target], alone[is_target], atol=2e-5)


def test_a_prompt_that_is_no_number_reaches_its_own_rows_alone(model, prompts):
    broken = [np.full_like(prompts[0], np.nan), *prompts[1:]]
    found = np.asarray(logits_of(model, broken))
    is_target = TARGETS != PAD
    for row, number in enumerate(ROWS):
        assert np.isfinite(found[row][is_target[row]]).all() == (number != 0)


def test_only_families_that_read_on_keep_what_is_in_front(model):
    kept = [kind.__name__ for kind, one in family.FAMILIES.items() if hasattr(one, "in_front")]
    assert kept == ["CausalConfig"]
    assert family.front_family_of(model.config) is causal
