"""What is true of every causal model: padding, a cache, packing and scanning change nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causal_models import MODELS, continued
from common import slow

import prompt_tuning_jax as pt
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.models.causal import CausalConfig, LayerKind, Rotary
from prompt_tuning_jax.models.causal import apply as causal
from prompt_tuning_jax.models.causal.weights import shapes
from prompt_tuning_jax.params import flatten, unflatten, with_prompt

PAD, START = 50, 50
P = 3
INPUTS = ("encoder_input_tokens", "decoder_input_tokens")


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
    rng = np.random.default_rng(0)
    values = {
        name: jnp.asarray(rng.normal(0, 0.3, shape), jnp.float32)
        for name, shape in shapes(config).items()
    }
    return pt.FrozenModel(config, unflatten(values))


@pytest.fixture(scope="module", params=["rotary", slow("learned")])
def model(request):
    return model_of(config_of(**(LEARNED if request.param == "learned" else {})))


@pytest.fixture(scope="module")
def prompt():
    return np.random.default_rng(1).normal(0, 0.5, (P, 16)).astype(np.float32)


def ids(shape, seed=2):
    return np.random.default_rng(seed).integers(2, 50, shape).astype(np.int32)


def right_padded(rows, length):
    return np.array([[*row, *[PAD] * (length - len(row))] for row in rows], np.int32)


TEXTS = [list(ids(n, seed=n)) for n in (5, 2, 7)]
TARGETS = [list(ids(n, seed=10 + n)) for n in (3, 4, 1)]


def batch_of(model, texts=TEXTS, targets=TARGETS, length=7):
    return continued(model, right_padded(texts, length), right_padded(targets, 4))


class TestPadding:
    @pytest.mark.parametrize("with_prompt", [False, True])
    def test_side_and_amount_change_nothing(self, model, prompt, with_prompt):
        given = prompt if with_prompt else None
        batch = batch_of(model)
        decoded = batch["decoder_input_tokens"]
        expected = model.logits(batch["encoder_input_tokens"], decoded, given)
        valid = batch["decoder_loss_weights"] > 0
        for length in (7, 12):
            rows = right_padded(TEXTS, length)
            left = np.array([[*[PAD] * (length - len(t)), *t] for t in TEXTS], np.int32)
            apart = np.array([[*t[:1], *[PAD] * (length - len(t)), *t[1:]] for t in TEXTS])
            for tokens in (rows, left, apart.astype(np.int32)):
                logits = model.logits(tokens, decoded, given)
                np.testing.assert_allclose(logits[valid], expected[valid], atol=1e-5, rtol=1e-5)
        for row, (text, target) in enumerate(zip(TEXTS, TARGETS, strict=True)):
            alone = continued(model, np.array([text]), np.array([target]))
            logits = model.logits(np.array([text]), alone["decoder_input_tokens"], given)
            found = expected[row, : len(target)]
            np.testing.assert_allclose(logits[0], found, atol=1e-5, rtol=1e-5)

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
        batch = batch_of(model)
        texts, decoded = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
        changed = decoded.copy()
        changed[:, 2] = 9
        one, other = model.logits(texts, decoded), model.logits(texts, changed)
        np.testing.assert_array_equal(one[:, :2], other[:, :2])
        assert np.abs(one[0, 2] - other[0, 2]).max() > 1e-3


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
    def test_step_by_step_is_as_all_at_once(self, model, prompt):
        batch = batch_of(model)
        texts, decoded = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
        expected = model.logits(texts, decoded, prompt)
        for each in (model, model.scanned()):
            params = each.prompted(prompt).params
            net, tokens, places = causal.bind(
                each.config, params, {"encoder_input_tokens": jnp.asarray(texts)}, "prefix"
            )
            decode = causal.start_decoding(net, params, tokens, places)
            all_at_once, _ = decode(jnp.asarray(decoded))
            _, cache = decode(jnp.asarray(decoded), max_decode_length=4)
            valid = batch["decoder_loss_weights"] > 0
            steps = []
            for step in range(4):
                logits, cache = decode(decoded[:, step : step + 1], cache, max_decode_length=4)
                steps.append(logits)
            for found in (all_at_once, jnp.concatenate(steps, axis=1)):
                np.testing.assert_allclose(found[valid], expected[valid], atol=1e-5, rtol=1e-5)

    def test_beams_score_what_the_model_says(self, model, prompt):
        texts = right_padded(TEXTS, 7)
        for each in (model, model.scanned()):
            tokens, scores = each.generate_tokens(texts, prompt, max_length=4, beams=3)
            batch = continued(each, texts, np.asarray(tokens))
            logits = each.logits(texts, batch["decoder_input_tokens"], prompt)
            chosen = jnp.minimum(tokens, 49)[..., None]
            log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, -1)[..., 0]
            sums = jnp.where(tokens == PAD, 0.0, log_probs).sum(axis=1)
            np.testing.assert_allclose(scores, sums, atol=1e-4, rtol=1e-5)

    def test_an_ensemble_of_the_same_prompt_twice_is_that_prompt(self, model, prompt):
        texts = right_padded(TEXTS, 7)
        bank = pt.TunedBank({str(i): pt.TunedPrompt(prompt) for i in range(2)})
        expected, _ = model.generate_tokens(texts, prompt, max_length=5)
        found, _ = model.generate_tokens(texts, bank.ensemble(), max_length=5)
        np.testing.assert_array_equal(found, expected)


def test_packed_rows_are_as_if_alone(model, prompt):
    """Two examples in a row, each with its own prompt, positions and start token."""
    batch = batch_of(model)
    expected = jax.value_and_grad(lambda p: model.loss(batch, p))(prompt)
    row = {"tokens": [], "positions": [], "segments": []}
    for number, text in enumerate(TEXTS, start=1):
        row["tokens"] += [*[PAD] * P, *text]
        row["positions"] += [*range(P), *[-1] * len(text)]
        row["segments"] += [number] * (P + len(text))
    decoded, targets, segments = [], [], []
    for number, target in enumerate(TARGETS, start=1):
        decoded += [START, *target[:-1]]
        targets += target
        segments += [number] * len(target)
    scale = batch["decoder_loss_weights"].max()
    packed = {
        "encoder_input_tokens": np.array([row["tokens"]], np.int32),
        "prompt_positions": np.array([row["positions"]], np.int32),
        "encoder_segment_ids": np.array([row["segments"]], np.int32),
        "decoder_input_tokens": np.array([decoded], np.int32),
        "decoder_target_tokens": np.array([targets], np.int32),
        "decoder_segment_ids": np.array([segments], np.int32),
        "decoder_loss_weights": np.full((1, len(targets)), scale, np.float32),
    }
    found = jax.value_and_grad(lambda p: model.loss(packed, p))(prompt)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5, rtol=1e-4)


def in_rows(batch, prompt):
    """The batch with the prompt's places in it: the network cannot know that it is in front."""
    tokens, positions = place_prompt(batch["encoder_input_tokens"], prompt.shape[-2], pad_id=PAD)
    return {**batch, "encoder_input_tokens": tokens, "prompt_positions": positions}


class TestInFront:
    """A prompt in front is computed once, and is as if each row had it."""

    @pytest.mark.parametrize("scan", [False, slow(True)])
    def test_alone(self, model, prompt, scan):
        model = model.scanned() if scan else model
        batch = batch_of(model)
        expected = jax.value_and_grad(lambda p: model.loss(in_rows(batch, p), p))(prompt)
        found = jax.value_and_grad(lambda p: model.loss(batch, p))(prompt)
        assert np.abs(expected[1]).max() > 1e-3
        assert_alike(found, expected)

    def test_before_a_text_that_is_empty(self, model, prompt):
        batch = batch_of(model, texts=[[], TEXTS[0], []])
        decoded = batch["decoder_input_tokens"]
        placed = in_rows(batch, prompt)
        config, params = model.config, model.prompted(prompt).params
        found, expected = (causal.apply(config, params, each) for each in (batch, placed))
        valid = batch["decoder_loss_weights"] > 0
        assert_alike(found[valid], expected[valid])
        changed = model.logits(batch["encoder_input_tokens"], decoded, prompt + 1)
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
        found, expected = (
            causal.apply(config, params, each) for each in (batch, in_rows(batch, bank))
        )
        valid = batch["decoder_loss_weights"] > 0
        assert_alike(found[valid], expected[valid])
        for i, which in enumerate(batch["prompt_ids"]):
            alone = model.logits(*(batch[n] for n in INPUTS), bank[which])
            assert_alike(found[i][valid[i]], alone[i][valid[i]])
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


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form["attention"])
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
    assert_alike(loss(config), loss(dataclasses.replace(model.config, attention="dense")))


def assert_alike(found, expected):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5, rtol=1e-4), found, expected
    )


@pytest.mark.parametrize(
    ("scan", "policy"),
    [(True, "full"), slow(False, "minimal"), slow(False, "full"), slow(True, "none")],
)
def test_scanning_and_computing_again_change_nothing(model, prompt, policy, scan):
    batch = batch_of(model)
    expected = jax.value_and_grad(lambda p: model.loss(batch, p))(prompt)
    other = model.scanned() if scan else model
    other = other.replace(config=dataclasses.replace(other.config, remat_policy=policy))
    found = jax.value_and_grad(lambda p: other.loss(batch, p))(prompt)
    assert_alike(found, expected)


def test_dropout_drops_and_its_mean_is_kept(model, prompt):
    config = dataclasses.replace(model.config, dropout_rate=0.5)
    batch = {name: jnp.asarray(x) for name, x in batch_of(model).items()}
    params = model.prompted(prompt).params
    one, other = (
        causal.apply(config, params, batch, dropout_rng=jax.random.key(seed)) for seed in (0, 1)
    )
    assert np.abs(one - other).max() > 1e-2
    plain = causal.apply(config, params, batch)
    np.testing.assert_allclose(plain, causal.apply(model.config, params, batch))


@pytest.mark.parametrize("scan", [False, True])
def test_every_weight_has_axes_and_a_place_on_a_mesh(model, prompt, scan):
    mesh = sharding.make_mesh("model:2")
    whole = model.scanned() if scan else model
    axes = sharding.logical_axes(whole.config)
    weights = flatten(whole.params)
    assert {name: len(x) for name, x in axes.items()} == {n: w.ndim for n, w in weights.items()}
    places = sharding.param_shardings(mesh, whole.config, weights)
    split = whole.replace(params=unflatten(sharding.put(weights, places)), mesh=mesh)
    batch = batch_of(model)
    batch = {name: np.concatenate([x, x[:1]]) for name, x in batch.items()}
    np.testing.assert_allclose(split.loss(batch, prompt), whole.loss(batch, prompt), rtol=1e-5)


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
