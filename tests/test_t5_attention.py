"""T5 with attention in each of its forms: the dense form's numbers in a fraction of its memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from common import slow

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.models.attention import choice
from prompt_tuning_jax.models.attention.choice import DEFAULT_CHUNK
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


BY_CHUNKS = pytest.mark.parametrize("faster", ["chunked", slow("fused")], indirect=True)


@pytest.fixture(params=["chunked", "fused"])
def faster(request, monkeypatch):
    """A config, with attention in another form; fused, on a CPU the TPU's kernel, interpreted."""
    monkeypatch.setattr(choice, "FUSED_QUERIES", P + T)  # the encoder's
    chunk = {"attention_chunk": 4} if request.param == "chunked" else {}

    def faster(config=DENSE):
        return dataclasses.replace(config, attention=request.param, **chunk)

    kernels = str(jax.make_jaxpr(functools.partial(loss, faster(), params=PARAMS))(PROMPT))
    assert ("pallas_call" in kernels) == (request.param == "fused")
    return faster


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 16])  # of 17 positions
def test_chunks_have_the_dense_values_and_gradients(chunk, dense):
    assert_close(values(chunked(chunk)), dense)


def test_the_dense_values_and_gradients(faster, dense):
    assert_close(values(faster()), dense)


@BY_CHUNKS
@pytest.mark.parametrize(
    "changes",
    [
        slow({"scan_layers": True, "remat_policy": "minimal"}),
        slow({"prompt_visibility": "isolated"}),
        {"prompt_visibility": "causal"},
        slow({"layer_relpos_bias": True}),
        slow({"remat_policy": "full"}),
    ],
    ids=str,
)
def test_the_other_choices_go_with_it(faster, changes):
    config = dataclasses.replace(DENSE, **changes)
    params = tiny.make_params(config)
    assert_close(values(faster(config), params), values(config, params))


@BY_CHUNKS
def test_examples_of_a_packed_row_are_kept_apart(faster):
    tokens, positions = place_prompt(TOKENS, P)
    segments = np.repeat([[1, 2]], [P + 4, T - 4], axis=1).repeat(3, axis=0)
    decoder_segments = np.repeat([[1, 2]], [4, L - 4], axis=1).repeat(3, axis=0)
    packed = {
        "tokens": tokens,
        "prompt_positions": positions,
        "encoder_segment_ids": segments,
        "decoder_segment_ids": decoder_segments,
    }
    assert_close(values(faster(), **packed), values(DENSE, **packed))


@BY_CHUNKS
@pytest.mark.slow
def test_dropout_is_the_same_draw(faster, key, dense):
    config = dataclasses.replace(DENSE, dropout_rate=0.3)
    ours, theirs = values(faster(config), key=key), values(config, key=key)
    assert_close(ours, theirs)
    assert np.abs(theirs[0] - dense[0]).max() > 0.01


@BY_CHUNKS
def test_every_weights_gradient_is_the_dense_one(faster):
    """That of the bias too, which a kernel does not give."""

    def gradients(config):
        return jit(jax.grad(lambda params: loss(config, PROMPT, params)[0]))(PARAMS)

    ours, theirs = (gradients(config) for config in (faster(), DENSE))
    assert np.abs(theirs["encoder"]["relpos_bias"]["rel_embedding"]).max() > 1e-4
    assert_close(*map(jax.tree.leaves, (ours, theirs)))


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["model:2", "data:2"])  # of three rows, which two do not divide
def test_a_mesh_changes_nothing(spec, monkeypatch, dense):
    monkeypatch.setattr(choice, "FUSED_QUERIES", P + T)
    mesh = sharding.make_mesh(spec)
    prompt = jax.device_put(PROMPT, sharding.replicated(mesh))
    fused = dataclasses.replace(DENSE, attention="fused")
    with sharding.active(mesh):
        function = functools.partial(loss, fused, params=PARAMS)
        gradient, logits = jit(jax.grad(function, has_aux=True))(prompt)
    assert_close((logits, gradient), dense)


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


@pytest.mark.slow
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
