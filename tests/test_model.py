"""The frozen model as a Python object: the reference's numbers, and laws on a tiny T5."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from common import GOLDEN_CONFIG, GOLDENS, slow
from flax.traverse_util import unflatten_dict

from prompt_tuning_jax import FrozenModel, TunedPrompt, load_model
from prompt_tuning_jax.layout import LAYOUTS, place_prompt
from prompt_tuning_jax.models.t5.apply import network_for
from prompt_tuning_jax.params import with_prompt

TEXTS = ["the soup was good", "we had cake and it was very cold", "the tea was fresh", "bread"]
BATCH_KEYS = (
    "encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights",
)  # fmt: skip


def golden(name: str) -> tuple[FrozenModel, dict, np.ndarray | None]:
    """The golden's model without its prompt, its inputs and outputs, and its prompt."""
    flat = dict(np.load(GOLDENS / "t5x" / f"{name}_params.npz"))
    prompt = flat.pop("encoder/prompt/prompt/prompt", None)
    data = dict(np.load(GOLDENS / "t5x" / f"{name}_io.npz"))
    return FrozenModel(GOLDEN_CONFIG, unflatten_dict(flat, sep="/")), data, prompt


@pytest.fixture(scope="module")
def prompt(model):
    return np.random.default_rng(0).normal(size=(5, model.config.emb_dim)).astype(np.float32)


@pytest.fixture(scope="module")
def batch(model):
    rows = [model.vocabulary.encode(text) for text in TEXTS]
    tokens = np.zeros((4, 12), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids) + 1] = [*ids, 1]
    targets = np.array([[*model.vocabulary.encode(w), 1] for w in ("yes", "no", "yes", "no")])
    return {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }


# --- the reference's numbers


@pytest.mark.parametrize("name", [slow("t5_network"), "prompt_encdec"])
def test_logits_and_loss_are_the_references(name):
    model, data, prompt = golden(name)
    batch = {key: data[f"in/{key}"] for key in BATCH_KEYS}
    logits = model.logits(batch["encoder_input_tokens"], batch["decoder_input_tokens"], prompt)
    valid = batch["decoder_target_tokens"] > 0
    np.testing.assert_allclose(logits[valid], data["logits"][valid], rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.loss(batch, prompt), data["loss"], rtol=1e-6)


def test_prompt_gradient_is_the_references():
    model, data, prompt = golden("prompt_encdec")
    batch = {key: data[f"in/{key}"] for key in BATCH_KEYS}
    gradient = jax.grad(lambda p: model.loss(batch, p))(prompt)
    expected = data["grad/encoder/prompt/prompt/prompt"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


# --- loss and gradient


@pytest.mark.slow
def test_gradient_is_the_slope_of_the_loss(model, batch, prompt):
    gradient = jax.grad(lambda p: model.loss(batch, p))(prompt)
    direction = np.random.default_rng(1).normal(size=prompt.shape).astype(np.float32)
    ahead, behind = (float(model.loss(batch, prompt + s * direction)) for s in (1e-2, -1e-2))
    np.testing.assert_allclose((ahead - behind) / 2e-2, np.sum(gradient * direction), rtol=0.02)


def test_loss_is_a_sum_over_weighted_tokens(model, batch, prompt):
    rows = [{key: x[i : i + 1] for key, x in batch.items()} for i in range(4)]
    losses = [float(model.loss(row, prompt)) for row in rows]
    np.testing.assert_allclose(model.loss(batch, prompt), sum(losses), rtol=1e-5)
    some = batch | {"decoder_loss_weights": batch["decoder_loss_weights"] * [[1], [0], [0], [2]]}
    np.testing.assert_allclose(model.loss(some, prompt), losses[0] + 2 * losses[3], rtol=1e-5)


# --- what a prompt may be


def test_every_form_of_a_prompt_gives_the_same_logits(model, batch, prompt):
    tokens, decoder_inputs = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    expected = model.logits(tokens, decoder_inputs, prompt)
    for form in (jnp.asarray(prompt), TunedPrompt(prompt), prompt.tolist()):
        np.testing.assert_array_equal(model.logits(tokens, decoder_inputs, form), expected)
    inside = model.replace(params=with_prompt(model.params, prompt))
    np.testing.assert_array_equal(inside.logits(tokens, decoder_inputs), expected)
    assert not np.allclose(model.logits(tokens, decoder_inputs), expected)


@pytest.mark.parametrize(
    "layout",
    ["suffix_before_eos", *(slow(name) for name in LAYOUTS if name != "suffix_before_eos")],
)
def test_a_tuned_prompt_stands_where_its_layout_says(model, batch, prompt, layout):
    tokens, decoder_inputs = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    joined, positions = place_prompt(tokens, len(prompt), layout)
    network = network_for(model.config, prompt.shape)
    expected = jax.jit(network.apply, static_argnames="enable_dropout")(
        {"params": with_prompt(model.params, prompt)},
        joined,
        decoder_inputs,
        decoder_inputs,
        prompt_positions=positions,
        enable_dropout=False,
    )
    logits = model.logits(tokens, decoder_inputs, TunedPrompt(prompt, layout))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((5, 8), r"\[P, 16\], got \[5, 8\]"), ((16,), "length, width"), ((2, 5, 16), "length, width")],
)
def test_a_prompt_of_another_shape_is_refused(model, batch, shape, words):
    with pytest.raises(ValueError, match=words):
        model.loss(batch, np.zeros(shape, np.float32))


# --- text


def test_classify_ranks_by_loss(model, batch, prompt):
    labels = ["yes", "no", "very good"]
    found, scores = model.classify(TEXTS, labels, prompt=prompt)
    for i, label in enumerate(labels):
        ids = np.array([[*model.vocabulary.encode(label), 1]] * 4)
        targets = {
            "decoder_input_tokens": np.pad(ids, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": ids,
            "decoder_loss_weights": np.ones(ids.shape, np.float32),
        }
        for row in range(4):
            one = {key: x[row : row + 1] for key, x in (batch | targets).items()}
            loss = model.loss(one, prompt, z_loss=0.0)
            np.testing.assert_allclose(scores[row, i], -loss, rtol=1e-4, atol=1e-4)
    assert found == [labels[i] for i in scores.argmax(axis=1)]


@pytest.mark.slow
def test_order_and_batch_size_change_nothing(model, prompt):
    long = " ".join(["the soup was good and"] * 10)  # another bucket
    texts = [long, *TEXTS, long.replace("good", "cold")]
    options = {"max_input_length": 64}
    expected = model.classify(texts, ["yes", "no"], prompt, batch_size=4, **options).scores
    backwards = model.classify(texts[::-1], ["yes", "no"], prompt, batch_size=4, **options).scores
    np.testing.assert_allclose(backwards[::-1], expected, rtol=1e-5)
    one_batch = model.classify(texts, ["yes", "no"], prompt, batch_size=8, **options).scores
    np.testing.assert_allclose(one_batch, expected, rtol=1e-5)


def generated(model, prompt=None, **options):
    return model.generate(TEXTS, prompt, max_length=4, batch_size=4, max_input_length=12, **options)


def test_generate_gives_the_text_and_score_of_generate_tokens(model, batch, prompt):
    texts, scores = generated(model, prompt)
    ids, expected = model.generate_tokens(batch["encoder_input_tokens"], prompt, max_length=4)
    assert texts == [model.vocabulary.decode(row) for row in ids]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.mark.slow
def test_another_prompt_gives_another_answer(model, prompt):
    plain, one, other = (generated(model, p).texts for p in (None, 3 * prompt, -3 * prompt))
    assert plain != one != other


@pytest.mark.slow
def test_more_beams_never_score_less(model, prompt):
    greedy, beams = generated(model, prompt), generated(model, prompt, beams=4)
    assert (beams.scores >= greedy.scores - 1e-4).all()


@pytest.mark.slow
def test_samples_are_the_seeds(model, prompt):
    def sample(seed):
        return generated(model, prompt, temperature=2.0, seed=seed).texts

    assert sample(0) == sample(0)
    assert sample(0) != sample(1)
    one_by_one = model.generate(
        TEXTS, prompt, max_length=4, batch_size=1, max_input_length=12, temperature=2.0, seed=0
    )
    assert one_by_one.texts == sample(0)


def test_no_texts_give_no_answers(model):
    assert model.generate([]).texts == []
    assert model.classify([], ["yes", "no"]).labels == []
    assert model.classify([], ["yes", "no"]).scores.shape == (0, 2)


def test_a_prompts_name_is_no_prompt(model, wrong_arrays):
    with pytest.raises(ValueError, match=r"pass pt\.load_prompt\('bundled_topic'\)"):
        model.classify(["soup"], ["yes", "no"], prompt="bundled_topic")


@pytest.mark.parametrize("method", ["generate", "classify"])
def test_one_text_instead_of_a_list_is_refused(model, method):
    arguments = [["yes"]] if method == "classify" else []
    with pytest.raises(ValueError, match="list of texts"):
        getattr(model, method)("the soup was good", *arguments)


def test_classify_needs_labels(model):
    with pytest.raises(ValueError, match="verbalizers"):
        model.classify(TEXTS, [])


# --- loading


def test_a_model_without_vocabulary_asks_for_one_only_where_text_comes_in(
    tmp_path, model, batch, prompt
):
    silent = load_model(tiny.save_model(tmp_path / "silent"))
    assert silent.vocabulary is None
    tokens, decoder_inputs = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    np.testing.assert_array_equal(
        silent.logits(tokens, decoder_inputs, prompt), model.logits(tokens, decoder_inputs, prompt)
    )
    assert silent.generate_tokens(tokens, prompt, max_length=4)[0].shape == (4, 4)
    for call in (lambda: silent.generate(TEXTS), lambda: silent.classify(TEXTS, ["yes", "no"])):
        with pytest.raises(ValueError, match="has no vocabulary, so it cannot"):
            call()


def test_bfloat16_weights_leave_prompt_and_logits_in_float32(model_dir, model, batch, prompt):
    half = load_model(model_dir, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype(jnp.bfloat16)}
    assert half.prompted(prompt).params["encoder"]["prompt"]["prompt"].dtype == jnp.float32
    logits = half.logits(batch["encoder_input_tokens"], batch["decoder_input_tokens"], prompt)
    assert logits.dtype == jnp.float32
    full = model.logits(batch["encoder_input_tokens"], batch["decoder_input_tokens"], prompt)
    assert np.abs(logits - full).mean() < 0.1
    assert half.fingerprint == model.fingerprint


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_model(tmp_path / "nowhere")


@pytest.mark.slow
def test_nothing_changes_a_weight(model, prompt):
    before = jax.tree.map(np.array, model.params)
    generated(model, prompt)
    model.classify(TEXTS, ["yes", "no"], prompt)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, model.params))
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.params = {}
