"""Attention to a few queries at a time: the dense form's numbers in a fraction of its memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.models.attention.choice import (
    DEFAULT_CHUNK,
    DENSE_BYTES,
    DENSE_LENGTH,
    Shape,
    choose,
    queries_at_once,
)
from prompt_tuning_jax.models.t5 import T5Config, Transformer
from prompt_tuning_jax.prompts import Prompt

P, T, L = 5, 12, 9
DENSE = T5Config(
    vocab_size=32,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=1,
    attention="dense",
)
TOKENS = np.random.default_rng(0).integers(2, 32, (3, T))
TOKENS[0, 4:] = TOKENS[1, 9:] = 0
TARGETS = np.random.default_rng(1).integers(2, 32, (3, L))
PROMPT = np.random.default_rng(2).normal(size=(P, 16)).astype(np.float32)
PARAMS = tiny.make_params(DENSE)

# Compiling is most of this file's time; code for a few numbers need not be fast.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


def with_prompt(params, prompt):
    return {**params, "encoder": {**params["encoder"], "prompt": {"prompt": jnp.asarray(prompt)}}}


def loss(config, prompt, params, dropout_key=None, **layout):
    tokens = layout.pop("tokens", TOKENS)
    logits = Transformer(config, functools.partial(Prompt, P)).apply(
        {"params": with_prompt(params, prompt)},
        tokens,
        TARGETS,
        TARGETS,
        enable_dropout=dropout_key is not None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
        **layout,
    )
    weights = np.random.default_rng(3).normal(size=logits.shape) / logits.size
    return jnp.sum(jnp.tanh(logits) * weights), logits


def values(config, params=PARAMS, key=None, **layout):
    """Logits, and the prompt's gradient of a loss that all of them are in."""
    function = functools.partial(loss, config, params=params, dropout_key=key, **layout)
    gradient, logits = jit(jax.grad(function, has_aux=True))(PROMPT)
    return logits, gradient


def assert_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * np.abs(b).max())


def chunked(chunk, config=DENSE):
    return dataclasses.replace(config, attention="chunked", attention_chunk=chunk)


@pytest.fixture(scope="module")
def dense():
    return values(DENSE)


@pytest.mark.parametrize("chunk", [1, 4, 16])  # of 17 positions
def test_chunks_have_the_dense_values_and_gradients(chunk, dense):
    assert_close(values(chunked(chunk)), dense)


@pytest.mark.parametrize(
    "changes", [{"scan_layers": True}, {"prompt_visibility": "isolated"}, {"remat_policy": "full"}]
)
def test_chunks_go_with_the_other_choices(changes):
    config = dataclasses.replace(DENSE, **changes)
    params = tiny.make_params(config)
    assert_close(values(chunked(4, config), params), values(config, params))


def test_chunks_keep_examples_of_a_packed_row_apart():
    tokens, positions = place_prompt(TOKENS, P)
    segments = np.repeat([[1, 2]], [P + 4, T - 4], axis=1).repeat(3, axis=0)
    decoder_segments = np.repeat([[1, 2]], [4, L - 4], axis=1).repeat(3, axis=0)
    packed = {
        "tokens": tokens,
        "prompt_positions": positions,
        "encoder_segment_ids": segments,
        "decoder_segment_ids": decoder_segments,
    }
    assert_close(values(chunked(4), **packed), values(DENSE, **packed))


def test_dropout_is_the_same_draw(key, dense):
    config = dataclasses.replace(DENSE, dropout_rate=0.3)
    ours, theirs = values(chunked(4, config), key=key), values(config, key=key)
    assert_close(ours, theirs)
    assert np.abs(theirs[0] - dense[0]).max() > 0.01


def test_every_weights_gradient_is_the_dense_one():
    def gradients(config):
        return jit(jax.grad(lambda params: loss(config, PROMPT, params)[0]))(PARAMS)

    ours, theirs = (jax.tree.leaves(gradients(config)) for config in (chunked(4), DENSE))
    assert_close(ours, theirs)


# ---- memory ----------------------------------------------------------------------------------


def temporary_bytes(config, batch=8, length=612):
    """Of a compiled loss and prompt gradient."""
    tokens = jax.ShapeDtypeStruct((batch, length - P), np.int32)
    targets = jax.ShapeDtypeStruct((batch, 2), np.int32)
    params = jax.eval_shape(lambda: with_prompt(tiny.make_params(config), PROMPT))
    network = Transformer(config, functools.partial(Prompt, P))

    def step(params, tokens, targets):
        def loss(prompt):
            weights = {"params": with_prompt(params, prompt)}
            return network.apply(weights, tokens, targets, targets, enable_dropout=False).sum()

        return jax.grad(loss)(params["encoder"]["prompt"]["prompt"])

    compiled = jax.jit(step).lower(params, tokens, targets).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_length_of_rows_and_not_with_its_square():
    config = dataclasses.replace(DENSE, num_encoder_layers=3, num_decoder_layers=1)
    lengths = (612, 4 * 612)
    dense = [temporary_bytes(config, length=length) for length in lengths]
    ours = [temporary_bytes(chunked(DEFAULT_CHUNK, config), length=length) for length in lengths]
    scores = [8 * config.num_heads * length * length * 4 for length in lengths]
    assert dense[0] - ours[0] > 3 * scores[0]  # one array of them for each layer's backward pass
    assert dense[1] > 12 * dense[0]
    assert ours[1] < 5 * ours[0]
    assert ours[1] < scores[1]


# ---- when ------------------------------------------------------------------------------------


FEW, MANY = Shape(15, 2, DENSE_LENGTH + 1, DENSE_LENGTH + 1, 8), Shape(16, 2, 513, 513, 8)
SHORT = Shape(100, 2, DENSE_LENGTH, DENSE_LENGTH, 8)


@pytest.mark.parametrize(
    ("form", "chunk", "shape", "expected"),
    [
        ("dense", None, MANY, MANY.queries),
        ("dense", 100, MANY, MANY.queries),
        ("chunked", None, FEW, DEFAULT_CHUNK),
        ("chunked", 100, FEW, 100),
        ("chunked", 600, FEW, FEW.queries),
        ("auto", 100, FEW, 100),
        ("auto", None, SHORT, SHORT.queries),
        ("auto", None, MANY, DEFAULT_CHUNK),
        ("auto", None, FEW, FEW.queries),
    ],
)
def test_how_many_queries_attend_at_a_time(form, chunk, shape, expected):
    assert 4 * FEW.rows * 2 * 513**2 < DENSE_BYTES < 4 * MANY.rows * 2 * 513**2
    assert queries_at_once(form, chunk, shape) == expected
    choice = choose(form, chunk, shape, jnp.float32, "cpu")
    assert choice == ("chunked" if expected < shape.queries else "dense", expected, "cpu")


def test_what_is_no_form_and_no_chunk_is_refused():
    with pytest.raises(ValueError, match="attention_chunk must be 1 or more, not 0"):
        chunked(0)
    with pytest.raises(ValueError, match=r"attention is one of .*, not 'quick'"):
        dataclasses.replace(DENSE, attention="quick")
