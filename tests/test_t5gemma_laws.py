"""What is true of every T5Gemma: padding, a cache, packing and scanning change nothing."""

import dataclasses

import family_laws as laws
import jax.numpy as jnp
import numpy as np
import pytest
from common import slow

import prompt_tuning_jax as pt
from prompt_tuning_jax.layout import LAYOUTS, VISIBILITIES
from prompt_tuning_jax.models.causal import CausalConfig, LayerKind, Rotary
from prompt_tuning_jax.models.causal.attention import NOWHERE, Places, visible
from prompt_tuning_jax.models.t5gemma import T5GemmaConfig, network
from prompt_tuning_jax.models.t5gemma.weights import shapes
from prompt_tuning_jax.params import flatten

PAD, END, START = 0, 1, 2
P, V = 3, 50


def stack(**changes) -> CausalConfig:
    switches = {
        "architecture": "t5gemma",
        "vocab_size": V,
        "emb_dim": 16,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 6,
        "mlp_dim": 24,
        "layers": (LayerKind(3, Rotary(1e4)), LayerKind(None, Rotary(1e4))),
        "mlp_activations": ("gelu", "linear"),
        "score_scale": 0.4,
        "score_cap": 5.0,
        "logits_via_embedding": True,
    }
    return CausalConfig(**(switches | changes))


def config_of(**changes) -> T5GemmaConfig:
    decoder = stack(emb_dim=12, num_kv_heads=1, head_dim=4, logit_cap=20.0)
    return T5GemmaConfig(**({"encoder": stack(), "decoder": decoder} | changes))


def model_of(config: T5GemmaConfig) -> pt.FrozenModel:
    return laws.random_model(config, shapes(config))


@pytest.fixture(scope="module")
def model():
    return model_of(config_of())


@pytest.fixture(scope="module")
def prompt():
    return np.random.default_rng(1).normal(0, 0.3, (P, 16)).astype(np.float32)


def ids(shape, seed=2):
    return np.random.default_rng(seed).integers(3, V, shape).astype(np.int32)


def padded(rows, length):
    return laws.right_padded(rows, length, PAD)


TEXTS = [list(ids(n, seed=n)) for n in (5, 2, 7)]
TARGETS = [list(ids(n, seed=10 + n)) for n in (3, 4, 1)]


def batch_of(texts=TEXTS, targets=TARGETS, length=7):
    rows = padded(targets, 4)
    start, counts = np.full((len(rows), 1), START, np.int32), rows != PAD
    return {
        "encoder_input_tokens": padded(texts, length),
        "decoder_input_tokens": np.concatenate([start, rows[:, :-1]], axis=1),
        "decoder_target_tokens": rows,
        "decoder_loss_weights": counts.astype(np.float32) / np.float32(counts.sum()),
    }


@pytest.mark.parametrize("with_prompt", [slow(False), True])
def test_side_and_amount_of_padding_change_nothing(model, prompt, with_prompt):
    given = prompt if with_prompt else None
    laws.side_and_amount_of_padding_change_nothing(model, batch_of(), TEXTS, TARGETS, given)


def test_targets_do_not_see_what_comes_after_them(model):
    laws.targets_do_not_see_what_comes_after_them(model, batch_of())


@pytest.mark.parametrize("window", [None, 2])
def test_the_encoder_sees_both_ways_as_far_as_its_window(window):
    positions = jnp.array([[0, 1, 2, 3, 3, 4]])
    keys = positions.at[0, 4].set(NOWHERE)
    limit = None if window is None else window + 1
    near = visible(Places(positions), Places(keys), limit, bidirectional=True)[0]
    for query in range(6):
        distance = np.abs(np.array([0, 1, 2, 3, 99, 4]) - int(positions[0, query]))
        np.testing.assert_array_equal(near[query], distance <= (9 if window is None else window))


@pytest.mark.slow
@pytest.mark.parametrize("layout", [LAYOUTS[0], *map(slow, LAYOUTS[1:])])
def test_a_prompt_is_like_tokens_with_its_rows(model, layout):
    """Rows of the embedding table as the prompt: the same as these tokens in its place."""
    tokens, texts = ids(P, seed=5), [[*text, END] for text in TEXTS]
    tuned = pt.TunedPrompt(np.asarray(model.embeddings)[tokens], layout)
    cuts = {"prefix": 0, "after_bos": 1, "suffix": 9, "suffix_before_eos": -1}
    joined = [[*t[: cuts[layout]], *tokens, *t[cuts[layout] :]] for t in texts]
    laws.assert_alike(
        model.loss(batch_of(texts, length=8), tuned), model.loss(batch_of(joined, length=11))
    )
    assert model.loss(batch_of(texts, length=8), tuned) != model.loss(batch_of(texts, length=8))


@pytest.mark.parametrize("visibility", VISIBILITIES)
def test_what_a_prompt_sees(model, prompt, visibility):
    """Changes of the text or of a later row that reach the first row of the encoded prompt."""
    config = dataclasses.replace(model.config, prompt_visibility=visibility)
    positions = jnp.array([[*range(P), -1, -1, -1, -1]])

    def first_row(tokens, prompt):
        params = model.prompted(prompt).params
        row = jnp.asarray([[PAD] * P + list(tokens)], jnp.int32)
        return network.encode(config, params, row, prompt_positions=positions)[0][0, 0]

    later = prompt.copy()
    later[2] += 1
    text, plain = ids(4), first_row(ids(4), prompt)
    of_text = np.abs(first_row([*text[:1], 7, *text[2:]], prompt) - plain).max() > 1e-6
    of_later = np.abs(first_row(text, later) - plain).max() > 1e-6
    assert of_text == (not visibility.startswith("isolated"))
    # Where it sees the text, which sees the prompt, the second layer brings later rows too.
    assert of_later == (visibility not in ("isolated_causal", "isolated_self"))


@pytest.mark.slow
def test_mixed_rows_of_a_bank_are_as_each_alone(model, prompt):
    batch = batch_of()
    tokens = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    for visibility in ("full", "isolated"):
        prompts = {str(i): pt.TunedPrompt(prompt * i, visibility=visibility) for i in (1, 2)}
        bank = pt.TunedBank(prompts)
        mixed = model.logits(*tokens, bank.rows(["2", "1", "2"]))
        for row, name in enumerate("212"):
            alone = model.logits(*tokens, prompts[name])
            laws.assert_alike(mixed[row], alone[row])


class TestCache:
    @pytest.mark.parametrize("scan", [slow(False), True])
    def test_step_by_step_is_as_all_at_once(self, model, prompt, scan):
        each = model.scanned() if scan else model
        laws.step_by_step_is_as_all_at_once(each, batch_of(), prompt)

    @pytest.mark.slow
    @pytest.mark.parametrize("scan", [slow(False), True])
    def test_beams_score_what_the_model_says(self, model, prompt, scan):
        model = model.scanned() if scan else model
        laws.beams_score_what_the_model_says(model, padded(TEXTS, 7), prompt)

    @pytest.mark.slow
    def test_an_ensemble_of_the_same_prompt_twice_is_that_prompt(self, model, prompt):
        laws.an_ensemble_of_one_prompt_twice_is_that_prompt(model, padded(TEXTS, 7), prompt)


@pytest.mark.slow
def test_packed_rows_are_as_if_alone(model, prompt):
    laws.packed_rows_are_as_if_alone(model, batch_of(), TEXTS, TARGETS, prompt)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scan", "policy"),
    [(True, "full"), slow(False, "minimal"), slow(False, "full"), slow(True, "none")],
)
def test_scanning_and_computing_again_change_nothing(model, prompt, policy, scan):
    how = {"scan_layers": scan, "remat_policy": policy}
    laws.another_form_is_the_same(model, batch_of(), prompt, **how)


@pytest.mark.slow
def test_dropout_drops_and_is_off_without_a_key(model, prompt):
    laws.dropout_drops_and_is_off_without_a_key(model, batch_of(), prompt)


@pytest.mark.parametrize("scan", [False, True])
def test_every_weight_has_axes(scan):
    whole = with_biases(scan)
    weights = flatten(whole.params)
    assert {name: w.shape for name, w in weights.items()} == shapes(whole.config)
    laws.every_weight_has_axes(whole)


@pytest.mark.parametrize("scan", [slow(False), True])
def test_a_mesh_changes_nothing(prompt, scan):
    laws.a_mesh_changes_nothing(with_biases(scan), batch_of(), prompt)


def with_biases(scan):
    decoder = stack(emb_dim=12, qkv_bias=True, out_bias=True, logits_via_embedding=False)
    model = model_of(config_of(decoder=decoder))
    return model.scanned() if scan else model


@pytest.mark.slow
@pytest.mark.parametrize("form", ["chunked", "fused"])
def test_every_form_of_attention_is_the_dense_one(prompt, form):
    model = model_of(config_of())
    batch = batch_of(
        [list(ids(68, seed=1)), list(ids(5, seed=2)), list(ids(40, seed=3))], length=70
    )

    dense = dataclasses.replace(model.config, attention="dense")
    chunk = 16 if form == "chunked" else None
    how = {"attention": form, "attention_chunk": chunk}
    laws.another_form_is_the_same(model.replace(config=dense), batch, prompt, **how)


class TestRefusals:
    def test_a_visibility_that_there_is_not(self):
        with pytest.raises(ValueError, match=r"T5GemmaConfig\.prompt_visibility is one of full"):
            config_of(prompt_visibility="none")

    def test_two_vocabularies(self):
        with pytest.raises(ValueError, match="encoder embeds 60 ids and the decoder 50"):
            config_of(encoder=stack(vocab_size=60))

    def test_packed_rows_that_do_not_say_where_the_prompt_is(self, model, prompt):
        ones = {
            f"{part}_segment_ids": np.ones((3, n), np.int32)
            for part, n in (("encoder", 7), ("decoder", 4))
        }
        with pytest.raises(ValueError, match="Packed rows need prompt_positions"):
            model.loss(batch_of() | ones, prompt)
