"""Causal language models: transformers' and PEFT's numbers."""

import jax
import numpy as np
import pytest
from causal_models import (
    MODELS,
    WITH_PROMPTS,
    continued,
    next_logits,
    no_text,
    numbers,
    padded,
)
from common import slow

import prompt_tuning_jax as pt
from prompt_tuning_jax.models.causal import network, rows
from prompt_tuning_jax.models.causal.attention import Block
from prompt_tuning_jax.models.causal.layers import norm

NEW = 20  # tokens that the goldens generated
FEW = ("qwen3",)


@pytest.fixture(scope="module", params=sorted(MODELS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return pt.load_model(MODELS[name])


ONE_OF_EACH = pytest.mark.parametrize(
    "name", [x if x in FEW else slow(x) for x in sorted(MODELS)], indirect=True
)
PROMPTED = pytest.mark.parametrize(
    "name", [x if x in FEW else slow(x) for x in WITH_PROMPTS], indirect=True
)


def assert_continues(tokens, expected, eos_id):
    """The same tokens to the end of each row; after it transformers has another padding."""
    ended = np.cumsum(expected == eos_id, axis=-1) - (expected == eos_id) > 0
    tokens = np.asarray(tokens)[:, : expected.shape[1]]
    np.testing.assert_array_equal(np.where(ended, 0, tokens), np.where(ended, 0, expected))


def test_there_are_models():
    assert len(MODELS) >= 2


class TestLogits:
    def test_rows_of_one_length_and_padded_on_either_side(self, model, name):
        io = numbers(name)
        logits = next_logits(model, padded(model, io, "unpadded"))
        np.testing.assert_allclose(logits, io["unpadded_logits"], atol=1e-4, rtol=0)
        right, left = (next_logits(model, padded(model, io, side)) for side in ("right", "left"))
        valid = io["right_attention_mask"] > 0
        np.testing.assert_allclose(right[valid], io["right_logits_valid"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(left[:, -1], io["left_last_logits"], atol=1e-4, rtol=0)

    @ONE_OF_EACH
    def test_after_a_text(self, model, name):
        """Some of a row's tokens as the text, padded on either side, the others as targets."""
        io = numbers(name)
        ids, expected = padded(model, io, "unpadded"), io["unpadded_logits"]
        for before, after in ((0, 0), (0, 3), (3, 0), (2, 2)):
            text = np.pad(
                ids[:, :4], ((0, 0), (before, after)), constant_values=model.config.pad_id
            )
            batch = continued(model, text, ids[:, 4:])
            logits = model.logits(text, batch["decoder_input_tokens"])
            np.testing.assert_allclose(logits, expected[:, 3:-1], atol=1e-4, rtol=0)

    @pytest.mark.parametrize("name", ["qwen3"], indirect=True)
    def test_every_layers_hidden_state(self, model, name):
        io, config, params = numbers(name), model.config, model.params
        tokens = padded(model, io, "unpadded")
        row = rows.of_texts(tokens, {}, config.pad_id, first=0)
        x_BxLxD = network.embedded(config, params, row.tokens, row.queries.positions)
        np.testing.assert_allclose(x_BxLxD, io["hidden_states"][0], atol=1e-6)

        def memory(own, _):
            return [Block(own, row.keys)], own

        for i, kind in enumerate(network.layer_kinds(config)):
            x_BxLxD, _ = network.block(
                config,
                x_BxLxD,
                params["decoder"][f"layers_{i}"],
                kind,
                None,
                None,
                places=row.queries,
                memory=memory,
            )
            if i + 1 == len(config.layers):
                x_BxLxD = norm(config, x_BxLxD, params["decoder"]["decoder_norm"])
            np.testing.assert_allclose(x_BxLxD, io["hidden_states"][i + 1], atol=1e-5, rtol=1e-5)


@ONE_OF_EACH
def test_loss(model, name):
    """transformers' mean over all tokens of a row but its first."""
    io = numbers(name)
    ids, mask = io["right_input_ids"], io["right_attention_mask"]
    ids = np.where(mask > 0, ids, model.config.pad_id).astype(np.int32)
    batch = continued(model, ids[:, :1], ids[:, 1:])
    np.testing.assert_allclose(model.loss(batch, z_loss=0.0), io["right_loss"], atol=5e-6, rtol=0)


@ONE_OF_EACH
def test_greedy(model, name):
    io = numbers(name)
    for side in ("unpadded", "left"):
        tokens = padded(model, io, side)
        generated, _ = model.generate_tokens(tokens, max_length=NEW)
        expected = io[f"greedy_{side}"][:, tokens.shape[1] :]
        assert_continues(generated, expected, model.config.eos_id)


@PROMPTED
class TestPeftsPrompts:
    @pytest.mark.parametrize("side", [slow("unpadded"), "right"])
    def test_loss_and_gradient(self, model, name, side):
        """All tokens are targets of an empty text, the first one of the prompt's last row."""
        io, peft = numbers(name), numbers(name, "peft.npz")
        ids = padded(model, io, side)
        batch = continued(model, no_text(model, len(ids)), ids)
        loss, gradient = jax.value_and_grad(lambda p: model.loss(batch, p, z_loss=0.0))(
            peft["random_prompt"]
        )
        np.testing.assert_allclose(loss, peft[f"random_{side}_loss"], atol=5e-6, rtol=0)
        expected = peft[f"random_{side}_grad_prompt"]
        largest = np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * largest, rtol=0)

    def test_logits(self, model, name):
        io, peft = numbers(name), numbers(name, "peft.npz")
        prompt = peft["random_prompt"]
        ids = padded(model, io, "unpadded")
        expected = peft["random_unpadded_logits"][:, len(prompt) :]
        logits = next_logits(model, ids, prompt)
        np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)
        batch = continued(model, ids[:, :4], ids[:, 4:])
        logits = model.logits(ids[:, :4], batch["decoder_input_tokens"], prompt)
        np.testing.assert_allclose(logits, expected[:, 3:-1], atol=1e-4, rtol=0)

    def test_rows_padded_on_the_left_are_as_if_alone(self, model, name):
        """Where PEFT puts the padding between prompt and text, and is wrong."""
        io, peft = numbers(name), numbers(name, "peft.npz")
        prompt, left = peft["random_prompt"], padded(model, io, "left")
        expected = peft["random_left_rowwise_last_logits"]
        last = np.full((len(left), 1), model.config.start_id, np.int32)
        logits = model.logits(left, last, prompt)[:, 0]
        np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)
        generated, _ = model.generate_tokens(left, prompt, max_length=NEW)
        expected = peft["random_generate_left_rowwise"][:, left.shape[1] :]
        assert_continues(generated, expected, model.config.eos_id)

    def test_greedy(self, model, name):
        io, peft = numbers(name), numbers(name, "peft.npz")
        ids = padded(model, io, "unpadded")
        generated, _ = model.generate_tokens(ids, peft["random_prompt"], max_length=NEW)
        expected = peft["random_generate_unpadded"][:, ids.shape[1] :]
        assert_continues(generated, expected, model.config.eos_id)

    def test_text_as_a_start(self, model, name):
        """PEFT's rows, Gemma's scaled as its embedded input is."""
        peft = numbers(name, "peft.npz")
        for kind in ("text_short", "text_long"):
            if f"{kind}_prompt" in peft:
                rows_PxD = np.asarray(model.embeddings)[peft[f"{kind}_used_ids"]]
                np.testing.assert_allclose(rows_PxD, peft[f"{kind}_prompt"], rtol=1e-6)
