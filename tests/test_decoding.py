"""Generation and ranking: goldens of transformers, PEFT and T5X, and laws on tiny random models."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import GOLDEN_CONFIG, GOLDENS, slow
from flax.traverse_util import unflatten_dict

from prompt_tuning_jax import layout
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.decoding import generation
from prompt_tuning_jax.models.t5.network import Transformer
from prompt_tuning_jax.prompts import Prompt, PromptBank

LENGTH = 8


def five_rows():
    return Prompt(5)


def bank_of_two():
    return PromptBank(2, 5)


@functools.cache
def golden(name):
    return dict(np.load(GOLDENS / name))


@functools.cache
def hugging_face(name):
    config, params, _ = huggingface.load(GOLDENS / "huggingface" / name)
    return Transformer(config), params


@functools.cache
def t5x(name, make_prompt=None):
    renamed = {
        key.replace("prompt/prompt/prompt", "prompt/prompt"): value
        for key, value in golden(f"t5x/{name}_params.npz").items()
    }
    return Transformer(GOLDEN_CONFIG, make_prompt), unflatten_dict(renamed, sep="/")


def prompted(values, make_prompt=five_rows):
    """The tiny transformers model with a prompt, and its golden's inputs."""
    model, params = hugging_face("t5_v1_1")
    params = params | {"encoder": params["encoder"] | {"prompt": {"prompt": values}}}
    return Transformer(model.config, make_prompt), params


@functools.cache
def peft():
    data = golden("huggingface/peft_t5_v1_1_sub1.npz")
    return *prompted(data["prompt"]), data["input_ids"]


def without_start(sequences, eos_id=1):
    """transformers' sequences as ours: no start token, 0 after EOS."""
    tokens = sequences[..., 1:]
    ended = np.cumsum(tokens == eos_id, axis=-1) - (tokens == eos_id) > 0
    return np.where(ended, 0, tokens)


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, inputs, shifted, prompts):
    logits = model.apply(
        {"params": params}, inputs, shifted, shifted, enable_dropout=False, **prompts
    )
    return jax.nn.log_softmax(logits)


def next_log_probs(model, params, inputs, generated, **prompts):
    """Log-probabilities [B, L, V] of each generated token by one forward pass without a cache."""
    shifted = np.pad(generated, ((0, 0), (1, 0)))[:, :-1]
    return np.asarray(forward(model, params, inputs, shifted, prompts))


def sequence_log_prob(model, params, inputs, generated, **prompts):
    """Sum of the log-probabilities of generated tokens up to and with EOS, [B]."""
    log_probs = next_log_probs(model, params, inputs, generated, **prompts)
    picked = np.take_along_axis(log_probs, generated[..., None], -1)[..., 0]
    after_eos = np.cumsum(generated == 1, axis=-1) - (generated == 1) > 0
    return np.sum(np.where(after_eos, 0, picked), axis=-1)


@pytest.mark.parametrize("name", ["t5_v1_1", slow("t5_v1_0")])
def test_greedy_and_beams_are_those_of_transformers(name):
    model, params = hugging_face(name)
    data = golden(f"huggingface/{name}_generate.npz")
    tokens, _ = generation.generate_tokens(model, params, data["input_ids"], max_length=LENGTH)
    np.testing.assert_array_equal(tokens, without_start(data["greedy_sequences"]))
    for penalty in (0, 1):
        tokens, scores = generation.generate_tokens(
            model,
            params,
            data["input_ids"],
            max_length=LENGTH,
            beams=4,
            length_penalty=penalty,
            return_all_beams=True,
        )
        expected = without_start(data[f"beam4_lp{penalty}_sequences"])
        np.testing.assert_array_equal(tokens, expected)
        expected = data[f"beam4_lp{penalty}_sequences_scores"]
        np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("eos_id", [9, slow(31)])
def test_beams_that_end_are_ranked_as_by_transformers(eos_id):
    data = golden("decoding/transformers_eos.npz")
    model, params = hugging_face("t5_v1_1")
    model = Transformer(dataclasses.replace(model.config, eos_id=eos_id))
    for penalty in ("0", "0.6", "1", "2", "-1"):
        tokens, scores = generation.generate_tokens(
            model,
            params,
            data["input_ids"],
            max_length=LENGTH,
            beams=4,
            length_penalty=float(penalty),
            return_all_beams=True,
        )
        name = f"eos{eos_id}_beam4_lp{penalty}_sequences"
        np.testing.assert_array_equal(tokens, without_start(data[name], eos_id), err_msg=name)
        expected = data[name + "_scores"]
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_prompt_generates_as_by_peft():
    model, params, inputs = peft()
    data = golden("huggingface/peft_t5_v1_1_sub1.npz")
    tokens, _ = generation.generate_tokens(model, params, inputs, max_length=LENGTH)
    np.testing.assert_array_equal(tokens, without_start(data["greedy_sequences"]))
    tokens, _ = generation.generate_tokens(
        model, params, inputs, max_length=LENGTH, beams=4, return_all_beams=True
    )
    np.testing.assert_array_equal(tokens, without_start(data["beam4_lp0_sequences"]))


@pytest.mark.parametrize(
    ("name", "make_prompt"), [slow("t5_network", None), ("prompt_encdec", five_rows)]
)
def test_generates_as_t5x(name, make_prompt):
    model, params = t5x(name, make_prompt)
    data = golden(f"t5x/{name}_io.npz")
    inputs = data["in/encoder_input_tokens"]
    tokens, scores = generation.generate_tokens(model, params, inputs, max_length=7)
    np.testing.assert_array_equal(tokens, data["beam1_decodes"])
    np.testing.assert_allclose(scores, data["beam1_scores"], atol=1e-4)
    tokens, scores = generation.generate_tokens(
        model,
        params,
        inputs,
        max_length=7,
        beams=4,
        late_finishers=True,
        return_all_beams=True,
    )
    # T5X lists the best last. Where a hypothesis has ended it leaves out those that have not, and
    # scores log p / ((5 + length) / 6)**0.6; elsewhere it scores log p.
    expected = data["beam4_decodes"][:, ::-1]
    expected_scores = data["beam4_scores"][:, ::-1]
    ended = np.any(expected == 1, axis=-1)
    length = np.argmax(expected == 1, axis=-1) + 1
    unscaled = expected_scores * np.where(ended, ((5 + length) / 6) ** 0.6, 1)
    found = expected_scores > -1e6
    assert found.sum() == (9 if name == "t5_network" else 12)
    np.testing.assert_array_equal(np.asarray(tokens)[found], expected[found])
    np.testing.assert_allclose(np.asarray(scores)[found], unscaled[found], atol=1e-4)


def test_cached_greedy_is_the_argmax_of_full_forward_passes():
    model, params, inputs = peft()
    tokens, scores = generation.generate_tokens(model, params, inputs, max_length=LENGTH)
    tokens = np.asarray(tokens)
    # The tokens before each position are right, so by induction one pass checks all of them.
    log_probs = next_log_probs(model, params, inputs, tokens)
    after_eos = np.cumsum(tokens == 1, axis=-1) - (tokens == 1) > 0
    np.testing.assert_array_equal(tokens, np.where(after_eos, 0, np.argmax(log_probs, -1)))
    expected = sequence_log_prob(model, params, inputs, tokens)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_beam_scores_are_the_log_probabilities_of_the_sequences(length_penalty):
    model, params = hugging_face("t5_v1_1")
    inputs = golden("huggingface/t5_v1_1_generate.npz")["input_ids"]
    tokens, scores = generation.generate_tokens(
        model,
        params,
        inputs,
        max_length=LENGTH,
        beams=4,
        length_penalty=length_penalty,
        return_all_beams=True,
    )
    ended = False
    for beam in range(4):
        generated = np.asarray(tokens[:, beam])
        length = np.where((generated == 1).any(-1), np.argmax(generated == 1, -1) + 1, LENGTH)
        expected = sequence_log_prob(model, params, inputs, generated) / length**length_penalty
        np.testing.assert_allclose(scores[:, beam], expected, atol=1e-4)
        ended |= bool((length < LENGTH).any())
    assert ended == (length_penalty == 0)


def test_another_prompt_gives_another_answer():
    model, params, inputs = peft()
    first, _ = generation.generate_tokens(model, params, inputs, max_length=LENGTH)
    other = prompted(-golden("huggingface/peft_t5_v1_1_sub1.npz")["prompt"])[1]
    second, _ = generation.generate_tokens(model, other, inputs, max_length=LENGTH)
    assert np.all(np.any(first != second, axis=-1))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["prefix", "suffix_before_eos"])
def test_prompt_positions_place_the_prompt(where):
    model, params, inputs = peft()
    placed, positions = layout.place_prompt(inputs, 5, where)
    tokens, scores = generation.generate_tokens(
        model, params, placed, max_length=LENGTH, beams=4, prompt_positions=positions
    )
    expected = sequence_log_prob(
        model, params, placed, np.asarray(tokens), prompt_positions=positions
    )
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    network_places, _ = generation.generate_tokens(
        model, params, inputs, max_length=LENGTH, beams=4
    )
    assert np.array_equal(tokens, network_places) == (where == "prefix")


@pytest.mark.slow
def test_rows_of_a_batch_may_use_different_prompts():
    values = golden("huggingface/peft_t5_v1_1_sub1.npz")["prompt"]
    bank = prompted(np.stack([values, -values]), bank_of_two)
    _, _, inputs = peft()
    ids = np.array([1, 0, 0, 1], np.int32)
    tokens, scores = generation.generate_tokens(
        *bank, inputs, max_length=LENGTH, beams=4, prompt_ids=ids
    )
    for prompt_id, alone in enumerate((prompted(values), prompted(-values))):
        expected, score = generation.generate_tokens(
            peft()[0], alone[1], inputs, max_length=LENGTH, beams=4
        )
        np.testing.assert_array_equal(tokens[ids == prompt_id], expected[ids == prompt_id])
        np.testing.assert_allclose(scores[ids == prompt_id], score[ids == prompt_id], atol=1e-5)


def test_neither_padding_nor_other_rows_change_a_row():
    model, params, inputs = peft()
    tokens, scores = generation.generate_tokens(model, params, inputs, max_length=LENGTH, beams=4)
    inputs = np.pad(inputs[1:3], ((0, 2), (0, 6)))  # fewer rows, dummy rows, more padding
    again, again_scores = generation.generate_tokens(
        model, params, inputs, max_length=LENGTH, beams=4
    )
    np.testing.assert_array_equal(again[:2], tokens[1:3])
    np.testing.assert_allclose(again_scores[:2], scores[1:3], atol=1e-5)


def test_sampling():
    model, params, inputs = peft()
    sample = functools.partial(
        generation.generate_tokens, model, params, max_length=LENGTH, temperature=1.0, top_p=0.9
    )
    keys = jax.random.split(jax.random.key(3), 4)
    tokens, scores = sample(inputs, rng=keys)
    np.testing.assert_array_equal(sample(inputs, rng=keys)[0], tokens)
    assert np.any(sample(inputs, rng=jax.random.split(jax.random.key(4), 4))[0] != tokens)
    expected = sequence_log_prob(model, params, inputs, np.asarray(tokens))
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    # With a key for each row, a row draws the same wherever it stands.
    np.testing.assert_array_equal(sample(inputs[::-1], rng=keys[::-1])[0], tokens[::-1])
    # With one key, rows that are alike still draw differently; old-style keys work too.
    alike, _ = sample(np.repeat(inputs[:1], 4, axis=0), rng=jax.random.PRNGKey(0))
    assert len(np.unique(alike, axis=0)) > 1


def test_top_1_is_greedy():
    model, params, inputs = peft()
    greedy, _ = generation.generate_tokens(model, params, inputs, max_length=LENGTH)
    tokens, _ = generation.generate_tokens(
        model, params, inputs, max_length=LENGTH, temperature=2.0, top_k=1
    )
    np.testing.assert_array_equal(tokens, greedy)


def labels():
    return np.array([[75, 74, 1], [65, 1, 0], [1, 0, 0], [127, 56, 1]], np.int32)


@pytest.mark.parametrize("where", [slow(None), "suffix"])
def test_rank_scores_every_label_as_if_alone(where):
    model, params, inputs = peft()
    prompts = {}
    if where:
        inputs, positions = layout.place_prompt(inputs, 5, where)
        prompts = {"prompt_positions": positions}
    scores = generation.rank(model, params, inputs, labels(), **prompts)
    assert scores.shape == (4, 4)
    for number, label in enumerate(labels()):
        targets = np.broadcast_to(label, (4, 3))
        expected = sequence_log_prob(model, params, inputs, targets, **prompts)
        np.testing.assert_allclose(scores[:, number], expected, atol=1e-4)


def test_rank_gives_beams_their_scores():
    model, params = hugging_face("t5_v1_1")
    inputs = golden("huggingface/t5_v1_1_generate.npz")["input_ids"]
    tokens, scores = generation.generate_tokens(model, params, inputs, max_length=LENGTH, beams=4)
    ended = np.any(tokens == 1, axis=-1)
    assert ended[2]
    ranked = generation.rank(model, params, inputs, np.asarray(tokens)[ended])
    np.testing.assert_allclose(np.diag(ranked[ended]), scores[ended], atol=1e-4)


def test_equal_calls_compile_once():
    _, params, inputs = peft()
    sizes = []
    for penalty in (0.0, 0.7):
        # Equal to, but not the same as, the model before it.
        model = Transformer(dataclasses.replace(hugging_face("t5_v1_1")[0].config), five_rows)
        generation.generate_tokens(
            model, params, inputs, max_length=LENGTH, beams=4, length_penalty=penalty
        )
        generation.rank(model, params, inputs, labels())
        sizes.append((generation._generate._cache_size(), generation._rank._cache_size()))
        inputs = jnp.asarray(inputs) + (inputs > 1).astype(np.int32)
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, "max_length"),
        ({"beams": 0}, "beams"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p"),
        ({"temperature": 1.0}, r"pass rng=jax\.random\.key"),
        ({"temperature": 1.0, "beams": 2, "rng": jax.random.key(0)}, "does not sample"),
        ({"temperature": 1.0, "rng": jax.random.split(jax.random.key(0), 3)}, "4 rows"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        generation.generate_tokens(*peft(), **({"max_length": 2} | settings))


@pytest.mark.parametrize("label", [[0, 0], [5, 0], [0, 1], [5, 6]])
def test_labels_must_end_in_eos(label):
    with pytest.raises(ValueError, match=r"Label 1 .* must end in EOS"):
        generation.rank(*peft(), np.array([[5, 1], label]))
