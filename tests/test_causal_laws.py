"""What is true of every causal model: padding, a cache, packing and scanning change nothing."""

import dataclasses
import functools

import family_laws as laws
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causal_models import MODELS, continued
from common import slow

import prompt_tuning_jax as pt
from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.models.causal import CausalConfig, LayerKind, Rotary
from prompt_tuning_jax.models.causal import apply as causal
from prompt_tuning_jax.models.causal.weights import shapes
from prompt_tuning_jax.params import with_prompt

PAD, START = 50, 50
P = 3
INPUTS = ("encoder_input_tokens", "decoder_input_tokens")
applied = jax.jit(causal.apply, static_argnums=0)


def config_of(**changes) -> CausalConfig:
    """A small model with most of the switches on, and layers of two kinds."""
    switches = {
        "architecture": "gemma3_text",
        "vocab_size": 50,
        "emb_dim": 16,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 6,
        "mlp_dim": 24,
        "layers": (LayerKind(4, Rotary(1e4)), LayerKind(None, Rotary(1e6)), LayerKind()),
        "norm_plus_one": True,
        "post_norms": True,
        "qk_norm": True,
        "scale_embedding": True,
        "score_scale": 0.4,
        "score_cap": 5.0,
        "logit_cap": 20.0,
        "logits_via_embedding": True,
        "pad_id": PAD,
        "start_id": START,
    }
    return CausalConfig(**(switches | changes))


LEARNED = {
    "architecture": "gpt2",
    "num_kv_heads": 4,
    "head_dim": 4,
    "layers": (LayerKind(),) * 2,
    "mlp_activations": ("gelu",),
    "norm": "layer",
    "norm_plus_one": False,
    "post_norms": False,
    "qk_norm": False,
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
    "joined_qkv": True,
    "learned_positions": True,
    "max_length": 64,
    "logits_via_embedding": False,
}


def model_of(config: CausalConfig) -> pt.FrozenModel:
    return laws.random_model(config, shapes(config))


@pytest.fixture(scope="module", params=["rotary", slow("learned")])
def model(request):
    return model_of(config_of(**(LEARNED if request.param == "learned" else {})))


@pytest.fixture(scope="module")
def prompt():
    return np.random.default_rng(1).normal(0, 0.5, (P, 16)).astype(np.float32)


def ids(shape, seed=2):
    return np.random.default_rng(seed).integers(2, 50, shape).astype(np.int32)


def right_padded(rows, length):
    return laws.right_padded(rows, length, PAD)


TEXTS = [list(ids(n, seed=n)) for n in (5, 2, 7)]
TARGETS = [list(ids(n, seed=10 + n)) for n in (3, 4, 1)]


def batch_of(model, texts=TEXTS, targets=TARGETS, length=7):
    return continued(model, right_padded(texts, length), right_padded(targets, 4))


class TestPadding:
    @pytest.mark.parametrize("with_prompt", [slow(False), True])
    def test_side_and_amount_change_nothing(self, model, prompt, with_prompt):
        given, batch = prompt if with_prompt else None, batch_of(model)
        laws.side_and_amount_of_padding_change_nothing(model, batch, TEXTS, TARGETS, given)

    def test_the_start_token_is_not_read(self, model, prompt):
        batch = batch_of(model)
        other = batch["decoder_input_tokens"].copy()
        other[:, 0] = 7
        texts = batch["encoder_input_tokens"]
        np.testing.assert_array_equal(
            model.logits(texts, other, prompt),
            model.logits(texts, batch["decoder_input_tokens"], prompt),
        )

    def test_targets_do_not_see_what_comes_after_them(self, model):
        laws.targets_do_not_see_what_comes_after_them(model, batch_of(model))


@pytest.mark.parametrize("layout", ["prefix", "after_bos", "suffix"])
def test_a_prompt_is_like_tokens_with_its_rows(model, layout):
    """Rows of the embedding table as the prompt: the same as these tokens in its place."""
    tokens = ids(P, seed=5)
    tuned = pt.TunedPrompt(np.asarray(model.embeddings)[tokens], layout)
    cut = {"prefix": 0, "after_bos": 1, "suffix": 9}[layout]
    texts = [[*t[:cut], *tokens, *t[cut:]] for t in TEXTS]
    batch, joined = batch_of(model), batch_of(model, texts, length=10)
    np.testing.assert_allclose(model.loss(batch, tuned), model.loss(joined), atol=1e-5, rtol=1e-5)


class TestCache:
    @pytest.mark.parametrize("scan", [slow(False), True])
    def test_step_by_step_is_as_all_at_once(self, model, prompt, scan):
        each = model.scanned() if scan else model
        laws.step_by_step_is_as_all_at_once(each, batch_of(model), prompt)

    @pytest.mark.parametrize("scan", [slow(False), True])
    def test_beams_score_what_the_model_says(self, model, prompt, scan):
        model = model.scanned() if scan else model
        laws.beams_score_what_the_model_says(model, right_padded(TEXTS, 7), prompt)

    @pytest.mark.slow
    def test_an_ensemble_of_the_same_prompt_twice_is_that_prompt(self, model, prompt):
        laws.an_ensemble_of_one_prompt_twice_is_that_prompt(model, right_padded(TEXTS, 7), prompt)


@pytest.mark.slow
def test_packed_rows_are_as_if_alone(model, prompt):
    laws.packed_rows_are_as_if_alone(model, batch_of(model), TEXTS, TARGETS, prompt)


def in_rows(batch, prompt):
    """The batch with the prompt's places in it: the network cannot know that it is in front."""
    tokens, positions = place_prompt(batch["encoder_input_tokens"], prompt.shape[-2], pad_id=PAD)
    return {**batch, "encoder_input_tokens": tokens, "prompt_positions": positions}


class TestInFront:
    """A prompt in front is computed once, and is as if each row had it."""

    @pytest.mark.slow
    @pytest.mark.parametrize("scan", [False, True])
    def test_alone(self, model, prompt, scan):
        model = model.scanned() if scan else model
        batch = batch_of(model)
        expected = jax.value_and_grad(lambda p: model.loss(in_rows(batch, p), p))(prompt)
        found = jax.value_and_grad(lambda p: model.loss(batch, p))(prompt)
        assert np.abs(expected[1]).max() > 1e-3
        laws.assert_alike(found, expected)

    @pytest.mark.slow
    def test_before_a_text_that_is_empty(self, model, prompt):
        batch = batch_of(model, texts=[[], TEXTS[0], []])
        decoded = batch["decoder_input_tokens"]
        placed = in_rows(batch, prompt)
        config, params = model.config, model.prompted(prompt).params
        found, expected = (applied(config, params, each) for each in (batch, placed))
        valid = batch["decoder_loss_weights"] > 0
        laws.assert_alike(found[valid], expected[valid])
        changed = model.logits(batch["encoder_input_tokens"], decoded, prompt[::-1])
        assert np.abs(changed - found)[0].max() > 1e-2
        tokens = right_padded([[], TEXTS[0], []], 7)
        ids, _ = model.generate_tokens(tokens, prompt, max_length=4)
        again = model.generate_tokens(tokens[:1], prompt, max_length=4)[0]
        np.testing.assert_array_equal(ids[:1], again)
        np.testing.assert_array_equal(ids[:1, 0], found[:1, 0].argmax(axis=-1))

    def test_each_row_its_own(self, model, prompt):
        bank = np.stack([prompt, 2 * prompt])
        batch = batch_of(model) | {"prompt_ids": np.array([1, 0, 1], np.int32)}
        config, params = model.config, with_prompt(model.params, jnp.asarray(bank))
        found, expected = (applied(config, params, each) for each in (batch, in_rows(batch, bank)))
        valid = batch["decoder_loss_weights"] > 0
        laws.assert_alike(found[valid], expected[valid])
        for i, which in enumerate(batch["prompt_ids"]):
            alone = model.logits(*(batch[n] for n in INPUTS), bank[which])
            laws.assert_alike(found[i][valid[i]], alone[i][valid[i]])
        with pytest.raises(ValueError, match="2 prompts: pass prompt_ids"):
            causal.apply(config, params, batch_of(model))

    def test_it_is_no_part_of_the_rows(self, model, prompt):
        params, batch = model.prompted(prompt).params, batch_of(model)
        rows = functools.partial(causal.apply, model.config)
        text = str(jax.make_jaxpr(rows)(params, batch))
        placed = str(jax.make_jaxpr(rows)(params, in_rows(batch, prompt)))
        whole = f"f32[3,{7 + 4 - 1 + P},16]"
        assert whole in placed
        assert whole not in text


FORMS = [{"attention": "chunked", "attention_chunk": 4}, {"attention": "fused"}]


@pytest.mark.parametrize("form", [pytest.param(FORMS[0], id="chunked"), slow(FORMS[1], id="fused")])
@pytest.mark.parametrize("place", [slow("in rows"), "in front"])
@pytest.mark.parametrize("scan", [False, slow(True)])
def test_every_form_of_attention_is_the_dense_one(prompt, form, place, scan):
    """In rows of more queries than a kernel needs, with windows, caps and padding on each side."""
    length = 70
    model = model_of(config_of(head_dim=16))
    model = model.scanned() if scan else model
    texts = [[PAD] * 9 + list(ids(50, seed=1)), list(ids(length, seed=2)), list(ids(3, seed=3))]
    batch = batch_of(model, texts, length=length)
    placed = in_rows if place == "in rows" else lambda batch, _: batch

    def loss(config):
        other = model.replace(config=config)
        return jax.value_and_grad(lambda p: other.loss(placed(batch, p), p))(prompt)

    config = dataclasses.replace(model.config, **form)
    laws.assert_alike(loss(config), loss(dataclasses.replace(model.config, attention="dense")))


@pytest.mark.parametrize(
    ("scan", "policy"),
    [(True, "full"), slow(False, "minimal"), slow(False, "full"), slow(True, "none")],
)
def test_scanning_and_computing_again_change_nothing(model, prompt, policy, scan):
    how = {"scan_layers": scan, "remat_policy": policy}
    laws.another_form_is_the_same(model, batch_of(model), prompt, **how)


@pytest.mark.slow
def test_dropout_drops_and_is_off_without_a_key(model, prompt):
    laws.dropout_drops_and_is_off_without_a_key(model, batch_of(model), prompt)


@pytest.mark.parametrize("scan", [False, True])
def test_every_weight_has_axes(model, scan):
    laws.every_weight_has_axes(model.scanned() if scan else model)


@pytest.mark.parametrize("scan", [slow(False), True])
def test_a_mesh_changes_nothing(model, prompt, scan):
    laws.a_mesh_changes_nothing(model.scanned() if scan else model, batch_of(model), prompt)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, "int8"])
def test_fewer_bits(dtype):
    whole, small = pt.load_model(MODELS["qwen3"]), pt.load_model(MODELS["qwen3"], dtype=dtype)
    tokens = ids((2, 6))
    batch = continued(whole, tokens[:, :3], tokens[:, 3:])
    loss = whole.loss(batch)
    for each in (small, small.scanned()):
        np.testing.assert_allclose(each.loss(batch), loss, rtol=0.05)
        assert each.fingerprint == small.fingerprint
    width = whole.config.emb_dim
    gradient = jax.grad(lambda p: small.loss(batch, p))(jnp.zeros((2, width)))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


class TestRefusals:
    def test_what_a_prompt_sees(self, model, prompt):
        tuned = pt.TunedPrompt(prompt, visibility="self")
        with pytest.raises(ValueError, match="prompt_visibility=self is not for causal"):
            model.loss(batch_of(model), tuned)

    def test_isolated_prompts_stand_in_front(self, model, prompt):
        tuned = pt.TunedPrompt(prompt, layout="suffix", visibility="isolated")
        with pytest.raises(ValueError, match="for prompts in front of their text"):
            model.loss(batch_of(model), tuned)
        config = dataclasses.replace(model.config, prompt_visibility="isolated")
        params, batch = model.prompted(prompt).params, batch_of(model)
        with pytest.raises(ValueError, match="for prompts in front of their text"):
            causal.apply(config, params, batch, layout="after_bos")

    def test_an_end_that_is_padding(self):
        with pytest.raises(ValueError, match="pad with vocab_size"):
            config_of(pad_id=1)

    def test_rows_longer_than_the_table_of_positions(self, prompt):
        model = model_of(config_of(**LEARNED | {"max_length": 12}))
        with pytest.raises(ValueError, match="13 positions, but this model knows only 12"):
            model.loss(batch_of(model), prompt)
        with pytest.raises(ValueError, match="this model knows only 12"):
            model.generate_tokens(right_padded(TEXTS, 7), prompt, max_length=8)

    def test_an_id_past_padding(self, model):
        tokens = right_padded(TEXTS, 7) + 1
        with pytest.raises(ValueError, match="holds the id 51"):
            model.generate_tokens(tokens, max_length=2)
