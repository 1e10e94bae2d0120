"""Penalties of what came before, as transformers': of T5's targets, of a causal row's input too."""

import functools

import jax
import numpy as np
import pytest
from causal_models import MODELS, next_logits
from common import GOLDENS, slow

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.huggingface.generation import defaults_of

MODEL_DIRS = {"llama": MODELS["llama_tied"], "t5": GOLDENS / "huggingface" / "t5_v1_1"}
OTHERS = {"qwen3": MODELS["qwen3"]}  # which has padding of its own
CASES = {
    "rp1.3": {"repetition_penalty": 1.3},
    "rp0.8": {"repetition_penalty": 0.8},
    "rp1.1_ng2": {"repetition_penalty": 1.1, "no_repeat_ngram_size": 2},
    "rp1.4_in2": {"repetition_penalty": 1.4, "encoder_no_repeat_ngram_size": 2},
}
LENGTH = 10


@functools.cache
def goldens():
    return dict(np.load(GOLDENS / "decoding" / "transformers_repetition.npz"))


@functools.cache
def model(name):
    return pt.load_model((MODEL_DIRS | OTHERS)[name])


def asking(name, **fields):
    """The model, as if its generation_config.json had these fields."""
    one = model(name)
    continues = one.config.continues_inputs
    return one.replace(generation=defaults_of(fields, "a file", one.vocab_size, continues))


def rows(name, left=False):
    """The inputs, padded on a side."""
    inputs = [goldens()[f"{name}_input_{i}"].tolist() for i in range(4)]
    length, pad = max(map(len, inputs)), model(name).config.pad_id
    padding = [[pad] * (length - len(ids)) for ids in inputs]
    padded = [p + ids if left else ids + p for p, ids in zip(padding, inputs, strict=True)]
    return np.array(padded, np.int32)


def until_end(tokens, name):
    """Tokens [n, L] with 0 for padding."""
    return np.where(np.array(tokens) == model(name).config.pad_id, 0, tokens)


@pytest.mark.parametrize("beams", [slow(1), 4])
@pytest.mark.parametrize("case", [slow("rp1.3"), slow("rp0.8"), "rp1.1_ng2", slow("rp1.4_in2")])
@pytest.mark.parametrize("name", MODEL_DIRS)
def test_transformers_tokens(name, case, beams):
    fields = {"max_new_tokens": LENGTH, "num_beams": beams, "length_penalty": 1.0}
    tokens, scores = asking(name, **fields, **CASES[case]).generate_tokens(rows(name))
    np.testing.assert_array_equal(until_end(tokens, name), goldens()[f"{name}_{case}_b{beams}"])
    if beams > 1:
        expected = goldens()[f"{name}_{case}_b{beams}_scores"]
        np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_padding_on_the_left_is_as_on_the_right():
    how = asking("llama", max_new_tokens=LENGTH, **CASES["rp1.1_ng2"])
    tokens, _ = how.generate_tokens(rows("llama", left=True))
    np.testing.assert_array_equal(tokens, goldens()["llama_rp1.1_ng2_b1"])


def test_padding_is_no_token():
    """A penalty that makes repeating likely would lead a model to padding that it has an id for."""
    one, how = model("qwen3"), {"repetition_penalty": 0.05, "max_length": 2}
    texts = np.arange(100, dtype=np.int32)[:, None] * 3 + 3
    alone, _ = one.generate_tokens(texts, **how)
    padded = np.pad(texts, ((0, 0), (2, 0)), constant_values=one.config.pad_id)
    np.testing.assert_array_equal(one.generate_tokens(padded, **how)[0], alone)


@pytest.mark.slow
def test_a_prompts_rows_are_no_tokens_wherever_they_stand():
    """Greedy by hand: the logits of text, prompt and what was generated, penalised by their ids."""
    one, penalty = model("qwen3"), 0.05
    values = np.random.default_rng(0).normal(size=(3, one.config.emb_dim)).astype(np.float32)
    prompt = pt.TunedPrompt(values, "after_bos")
    for row in (np.arange(40).reshape(10, 4) * 7 + 3).tolist():
        text = np.array([row], np.int32)
        tokens, _ = one.generate_tokens(text, prompt, max_length=2, repetition_penalty=penalty)
        for token in np.array(tokens)[0].tolist():
            logits = next_after(one, row, prompt)
            came = np.isin(np.arange(len(logits)), row)
            penalised = np.where(logits < 0, logits * penalty, logits / penalty)
            assert token == np.argmax(np.where(came, penalised, logits))
            row.append(token)


def next_after(one, row, prompt):
    start = np.full((1, 1), one.config.start_id, np.int32)
    return np.asarray(one.logits(np.array([row], np.int32), start, prompt))[0, 0]


@pytest.mark.parametrize("name", ["t5", slow("llama")])
def test_sampling_is_of_what_the_penalty_left(name):
    """Among the likeliest alone, sampling is the greedy search that transformers did."""
    fields = {"do_sample": True, "temperature": 0.7, "top_p": 1e-6}
    how = asking(name, max_new_tokens=LENGTH, **fields, **CASES["rp1.3"])
    tokens, _ = how.generate_tokens(rows(name))
    np.testing.assert_array_equal(until_end(tokens, name), goldens()[f"{name}_rp1.3_b1"])


@pytest.mark.slow
def test_sampled_frequencies_after_an_input():
    """The first token's, drawn many times, are softmax(penalised logits / temperature)."""
    one, count, penalty, temperature = model("llama"), 4000, 2.0, 0.5
    text = rows("llama")[3:4, :6]
    how = {"repetition_penalty": penalty, "temperature": temperature, "max_length": 1}
    tokens, _ = one.generate_tokens(np.repeat(text, count, axis=0), **how)
    logits = next_logits(one, text)[0, -1]
    came = np.isin(np.arange(len(logits)), text)
    logits = np.where(came, np.where(logits < 0, logits * penalty, logits / penalty), logits)
    expected = np.asarray(jax.nn.softmax(logits / temperature))
    found = np.bincount(np.array(tokens)[:, 0], minlength=len(logits)) / count
    np.testing.assert_allclose(found, expected, atol=0.03)
