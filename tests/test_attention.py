"""Which form attention takes, and how cuDNN's is called. That all are equal: test_t5_attention."""

import dataclasses
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import slow
from flax.linen import partitioning
from jax.sharding import NamedSharding, PartitionSpec

from prompt_tuning_jax import TrainConfig
from prompt_tuning_jax.checkpoints.huggingface.causal import published_config
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.attention import cudnn, dense, fused
from prompt_tuning_jax.models.attention.attend import attend
from prompt_tuning_jax.models.attention.bias import Bias, mask_bias
from prompt_tuning_jax.models.attention.choice import (
    DEFAULT_CHUNK,
    DENSE_BYTES,
    DENSE_LENGTH,
    Shape,
    active_mesh,
    choose,
    platform_of,
    queries_at_once,
)
from prompt_tuning_jax.models.t5.config import t5_1_1
from prompt_tuning_jax.planning import gpus
from prompt_tuning_jax.training.fitting import told_attention

# ---- which form ------------------------------------------------------------------------------

ROWS = Shape(rows=32, heads=32, queries=612, keys=612, head_dim=64)


@pytest.mark.parametrize(
    ("platform", "form", "changes", "dtype", "expected"),
    [
        ("tpu", "auto", {}, "bfloat16", "fused"),
        ("tpu", "auto", {}, "float32", "fused"),
        ("gpu", "auto", {}, "bfloat16", "fused"),
        ("gpu", "auto", {}, "float32", "chunked"),
        ("gpu", "fused", {}, "float32", "chunked"),
        ("gpu", "auto", {"head_dim": 60}, "bfloat16", "chunked"),
        ("gpu", "auto", {"queries": 8}, "bfloat16", "dense"),
        ("tpu", "fused", {"queries": 8}, "bfloat16", "dense"),
        ("tpu", "auto", {"keys": 100_000}, "bfloat16", "chunked"),
        ("tpu", "dense", {}, "bfloat16", "dense"),
        ("gpu", "chunked", {}, "bfloat16", "chunked"),
        ("cpu", "auto", {}, "bfloat16", "chunked"),
        ("cpu", "fused", {}, "bfloat16", "fused"),
    ],
)
def test_the_form_for_a_device(platform, form, changes, dtype, expected):
    choice = choose(form, None, ROWS._replace(**changes), dtype, platform)
    assert choice.form == expected


def test_a_chunk_that_is_asked_for_counts_everywhere():
    for platform in ("cpu", "gpu", "tpu"):
        assert choose("auto", 100, ROWS, "bfloat16", platform)[:2] == ("chunked", 100)


def test_the_mesh_says_which_devices_are_meant():
    assert active_mesh() is None
    assert platform_of(None) == "cpu"
    mesh = sharding.make_mesh("data:2")
    with sharding.active(mesh):
        assert platform_of(active_mesh()) == "cpu"
    with pytest.deprecated_call(), mesh:  # as T5X does
        assert active_mesh() is mesh
        assert platform_of(mesh) == "cpu"
    other = jax.sharding.AbstractDevice("TPU v5", 1, "tpu")
    abstract = mesh.abstract_mesh.update(abstract_device=other)
    with jax.sharding.use_abstract_mesh(abstract):
        assert platform_of(active_mesh()) == "tpu"


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
        t5_1_1("small", attention_chunk=0)
    with pytest.raises(ValueError, match=r"attention is one of .*, not 'quick'"):
        t5_1_1("small", attention="quick")


def test_a_kernel_runs_in_a_mesh_that_is_entered_the_older_way(key):
    q, k, v = jax.random.normal(key, (3, 2, 2, 64, 8))
    bias = Bias(mask_bias(np.ones((2, 1, 64), bool)))
    rules = tuple(sharding.RULES_IN_USE.items())
    with pytest.deprecated_call(), sharding.make_mesh("data:2"), partitioning.axis_rules(rules):
        found = jax.jit(lambda q: attend(q, k, v, bias, form="fused"))(q)
    np.testing.assert_allclose(found, dense.attend(q, k, v, bias), atol=1e-5)


def test_a_bias_that_no_kernel_can_make_is_added(key):
    q, k, v = jax.random.normal(key, (3, 1, 2, 64, 8))
    distances = jax.random.normal(key, (1, 2, 64, 64))
    bias = Bias(mask_bias(np.ones((1, 1, 64), bool)), distances)
    found = attend(q, k, v, bias, form="fused")
    np.testing.assert_array_equal(found, dense.attend(q, k, v, bias))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "attention: 128 queries at a time in rows of 612 (cpu)"),
        ({"batch_size": 1}, "attention: dense in rows of 612 (cpu)"),
        ({"microbatches": 32}, "attention: dense in rows of 612 (cpu)"),
        ({"attention": "fused"}, "attention: fused in rows of 612 (cpu)"),
        ({"prompt_visibility": "isolated"}, "attention: dense in rows of 512 (cpu)"),
        (
            {"prompt_visibility": "isolated", "prompt_layout": "suffix"},
            "attention: 128 queries at a time in rows of 612 (cpu)",
        ),
    ],
)
def test_what_a_run_says(model, settings, said):
    large = dataclasses.replace(model, config=t5_1_1("base"))
    lengths = {"inputs": 512, "targets": 8}
    config = TrainConfig(feature_lengths=lengths, **{"batch_size": 32} | settings)
    assert told_attention(config, large) == said


@pytest.mark.parametrize(("layout", "rows"), [("prefix", 519), ("suffix", 619)])
def test_what_a_run_of_a_causal_model_says(model, layout, rows):
    large = dataclasses.replace(model, config=published_config("llama3.2-1b"))
    lengths = {"inputs": 512, "targets": 8}
    config = TrainConfig(feature_lengths=lengths, batch_size=1, prompt_layout=layout)
    said = f"attention: 128 queries at a time in rows of {rows} (cpu)"
    assert told_attention(config, large) == said


# ---- cuDNN -----------------------------------------------------------------------------------


def by_cudnns_rules(q, k, v, bias, queries, keys, options):
    """(out, sums), in plain operations; what cuDNN takes is checked."""
    scale, _, dropout, (has_bias, wants_gradient), mask_type, layout, window, _ = options
    assert (scale, dropout, wants_gradient, layout, window) == (1.0, 0.0, False, 1, None)
    assert q.shape[2] % 2 == k.shape[2] % 2 == 0
    scores = jnp.einsum("bhlk,bhsk->bhls", q, k)
    if has_bias:
        assert bias.shape[1] in (1, scores.shape[1])
        assert bias.shape[2:] == scores.shape[2:]
        assert bias.dtype == q.dtype
        scores += bias
    if mask_type == cudnn.library.MaskType.PADDING:
        assert queries.shape == keys.shape == q.shape[:1]
        hidden = jnp.arange(k.shape[2])[None] >= keys[:, None]
        scores = jnp.where(hidden[:, None, None], -jnp.inf, scores)
    sums = jax.nn.logsumexp(scores, axis=-1)
    return jnp.einsum("bhls,bhsk->bhlk", jnp.exp(scores - sums[..., None]), v), sums


@pytest.fixture
def taken(monkeypatch):
    """Puts plain operations in the library's place; whichever way to mask is broken gives NaN."""
    broken = []

    def forward(*arguments):
        arrays, (*options, keeps) = arguments[:10], arguments[10:]
        out, sums = by_cudnns_rules(*arrays[:6], options)
        assert keeps
        return (jnp.nan * out if options[4] in broken else out, sums), None

    def backward(*arguments):
        *options, keeps, kept, change = arguments
        assert not keeps
        _, pullback = jax.vjp(
            lambda q, k, v: by_cudnns_rules(q, k, v, *kept[3:6], options)[0], *kept[:3]
        )
        return *pullback(change), *[None] * 7

    monkeypatch.setattr(cudnn.library, "_dot_product_attention_fwd_rule", forward)
    monkeypatch.setattr(cudnn.library, "_dot_product_attention_bwd_rule", backward)
    monkeypatch.setattr(cudnn.library, "check_cudnn_version", lambda: 91000)
    return broken


def lengths(B, L, S):
    return np.arange(S)[None, None] < np.array([S, 1, 4])[:B, None, None]


def holes(B, L, S):
    seen = lengths(B, L, S).copy()
    seen[0, 0, 2] = False
    return seen


def triangle(B, L, S):
    return np.tri(L, S, dtype=bool)[None].repeat(B, axis=0)


def everything(B, L, S):
    return np.ones((1, 1, S), bool)


def run(attend, inputs, weights):
    """The output, and a gradient of all of it."""

    def loss(inputs):
        out = attend(*inputs)
        return jnp.sum(out * weights), out

    gradient, out = jax.jit(jax.grad(loss, has_aux=True))(inputs)
    return out, *gradient


def numbers(seed, B, L, S, has_bias):
    rng = np.random.default_rng(seed)
    q, k, v, weights = (
        jnp.asarray(rng.normal(size=(B, 2, n, 8)), jnp.float32) for n in (L, S, S, L)
    )
    by_offset = jnp.asarray(rng.normal(size=(2, L + S - 1)), jnp.float32) if has_bias else None
    return (q, k, v), weights, by_offset


def plain(seen, by_offset):
    mask = mask_bias(seen)
    bias = Bias(mask) if by_offset is None else Bias.of(mask, by_offset)
    return functools.partial(dense.attend, bias=bias)


def by_cudnn(seen, by_offset):
    return lambda q, k, v: fused._attend(cudnn.attend, q, k, v, seen, by_offset)


def assert_close(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-5)


@pytest.mark.parametrize("mask", [lengths, holes, triangle, everything])
@pytest.mark.parametrize(("L", "S"), [slow(6, 6), (7, 7), slow(6, 9), (7, 10)])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.usefixtures("taken")
def test_any_length_and_mask_is_given_to_cudnn_as_it_takes_them(mask, L, S, has_bias):
    inputs, weights, by_offset = numbers(L + S, 3, L, S, has_bias)
    seen = mask(3, L, S)
    ours = run(by_cudnn(seen, by_offset), inputs, weights)
    assert_close(ours, run(plain(seen, by_offset), inputs, weights))


@pytest.mark.parametrize(
    ("mask", "way"),
    [(lengths, "PADDING"), (everything, "PADDING"), (holes, "NO_MASK"), (triangle, "NO_MASK")],
)
def test_rows_that_are_padded_at_their_end_are_told_by_length(mask, way, taken):
    inputs, weights, by_offset = numbers(0, 3, 6, 6, True)
    types = cudnn.library.MaskType
    taken.append(types.PADDING if way == "NO_MASK" else types.NO_MASK)
    assert np.isfinite(run(by_cudnn(mask(3, 6, 6), by_offset), inputs, weights)[0]).all()
    taken[:] = [types[way]]
    assert np.isnan(run(by_cudnn(mask(3, 6, 6), by_offset), inputs, weights)[0]).all()


@pytest.mark.usefixtures("taken")
def test_copies_of_a_model_are_more_rows():
    inputs, weights, by_offset = numbers(0, 6, 7, 7, True)
    seen = jnp.asarray(lengths(3, 7, 7).repeat(2, axis=0))

    def copies(x):
        return x.reshape(2, 3, *x.shape[1:])

    def together(q, k, v):
        def one(q, k, v, seen):
            return by_cudnn(seen, by_offset)(q, k, v)

        return jax.vmap(one)(*map(copies, (q, k, v, seen))).reshape(q.shape)

    ours = run(together, inputs, weights)
    assert_close(ours, run(plain(seen, by_offset), inputs, weights))
    # Still one choice of the way to mask: vmap alone would compute both for every row.
    assert "cond[" in str(jax.make_jaxpr(together)(*inputs))


@pytest.mark.slow
@pytest.mark.skipif(
    not any(importlib.util.find_spec(name.replace("-", "_")) for name in gpus.PLUGINS),
    reason="need JAX's plugin for CUDA: pip install '.[plan_gpu]'",
)
def test_the_gpu_compiler_takes_it():
    mesh = sharding.make_mesh("data:1", gpus.parse_node("h100").devices())

    def array(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    def loss(q, k, v, seen, by_offset):
        return jnp.sum(by_cudnn(seen, by_offset)(q, k, v).astype(jnp.float32))

    heads = array((4, 8, 613, 64), jnp.bfloat16)
    bias = array((4, 1, 613), jnp.bool_), array((8, 1225), jnp.float32)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        step = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(heads, heads, heads, *bias)
        text = step.compile().as_text()
    calls = [line for line in text.splitlines() if "__cudnn$fmhaScaleBiasSoftmaxBackward" in line]
    assert len(calls) == 2  # by length, and by mask
    for call in calls:  # no gradient of the bias
        assert "614,614]" not in call.partition("custom-call(")[0]
    assert "f32[4,8,614,614]" not in text
