"""Prompts in front of their texts that went through the layers before, as a server keeps them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causal_models import continued
from common import slow
from family_laws import random_model
from test_causal_laws import LEARNED, PAD, config_of, model_of, right_padded

from prompt_tuning_jax.models.family import FAMILIES, FrontFamily, family_of, front_family_of
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.params import flatten, with_prompt

LENGTHS = (3, 1, 2)
NONE = len(LENGTHS)  # the row of what no text sees anything of
ROWS = (1, 0, NONE, 2, 1)
TEXTS = right_padded([list(range(5, 5 + n)) for n in (5, 2, 7, 1, 4)], 7)
TARGETS = right_padded([[9, 8, 7], [6, 5], [4, 3, 2], [11], [12, 13, 14]], 3)


T5 = T5Config(
    vocab_size=50,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=2,
    prompt_visibility="isolated",
)
KINDS = ("t5", slow("t5 scanned"), slow("umt5"), "rotary", slow("rotary scanned"), slow("learned"))


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    kind = request.param.removesuffix(" scanned")
    if "t5" in kind:
        config = dataclasses.replace(T5, layer_relpos_bias=kind == "umt5")
        shapes = flatten(family_of(config).abstract_variables(config, None)["params"])
        model = random_model(config, {name: x.shape for name, x in shapes.items()})
    else:
        model = model_of(config_of(**(LEARNED if kind == "learned" else {})))
    return model.scanned() if request.param != kind else model


@pytest.fixture(scope="module")
def prompts(model):
    rng, width = np.random.default_rng(3), model.config.emb_dim
    return [rng.normal(0, 0.5, (n, width)).astype(np.float32) for n in LENGTHS]


def logits_of(model, prompts):
    """Of the targets, by prompts that are kept: shorter ones are padded, and one is none at all."""
    values = np.zeros((NONE + 1, max(LENGTHS), model.config.emb_dim), np.float32)
    for row, prompt in zip(values, prompts, strict=False):
        row[: len(prompt)] = prompt
    batch, ids = batch_of(model), np.array(ROWS, np.int32)
    lengths, family = np.array([*LENGTHS, 0], np.int32), front_family_of(model.config)

    @jax.jit
    def logits(params, values, batch):
        fronts = family.in_front(model.config, params, values, jnp.asarray(lengths))
        network, tokens, places = family.bind(model.config, params, batch, "prefix")
        front = fronts, jnp.asarray(ids), jnp.asarray(lengths[ids])
        read = family.read(network, params, tokens, {**places, "front": front})
        return family.decode(network, params, read, batch["decoder_input_tokens"])[0]

    return logits(model.params, jnp.asarray(values), batch)


def batch_of(model):
    """Padding as the model has it."""
    texts, targets = (np.where(x == PAD, model.config.pad_id, x) for x in (TEXTS, TARGETS))
    return continued(model, texts, targets)


def test_what_is_kept_is_what_would_be_read(model, prompts):
    found = logits_of(model, prompts)
    batch = batch_of(model)
    applied = jax.jit(family_of(model.config).apply, static_argnums=0)
    for row, number in enumerate(ROWS):
        params = model.params
        if number != NONE:
            params = with_prompt(params, jnp.asarray(prompts[number]))
        one = {name: x[row : row + 1] for name, x in batch.items()}
        alone = applied(model.config, params, one)[0]
        is_target = TARGETS[row] != PAD
        np.testing.assert_allclose(found[row][is_target], alone[is_target], atol=2e-5)


def test_a_prompt_that_is_no_number_reaches_its_own_rows_alone(model, prompts):
    broken = [np.full_like(prompts[0], np.nan), *prompts[1:]]
    found = np.asarray(logits_of(model, broken))
    is_target = TARGETS != PAD
    for row, number in enumerate(ROWS):
        assert np.isfinite(found[row][is_target[row]]).all() == (number != 0)


def test_where_prompts_in_front_can_be_kept():
    assert sum(isinstance(one, FrontFamily) for one in FAMILIES.values()) == 2
    assert front_family_of(T5) is family_of(T5)
    assert (
        front_family_of(
            dataclasses.replace(T5, encoder_attention="local", prompt_visibility="full")
        )
        is None
    )
