"""Which form attention takes, and that the fused form is the dense one's equal in the network."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from common import slow
from flax.linen import partitioning

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.models.attention.attend import attend
from prompt_tuning_jax.models.attention.bias import Bias, mask_bias
from prompt_tuning_jax.models.attention.choice import Shape, active_mesh, choose, platform_of
from prompt_tuning_jax.models.t5 import T5Config, Transformer
from prompt_tuning_jax.prompts import Prompt

P, T, L = 6, 66, 5
DENSE = T5Config(
    vocab_size=32,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    attention="dense",
)
FUSED = {"attention": "fused"}  # on a CPU the TPU's kernel, interpreted
TOKENS = np.random.default_rng(0).integers(2, 32, (4, T))
TOKENS[0, 40:] = TOKENS[1, 9:] = 0
TOKENS[2, 5:9] = 0  # not only at the end
TARGETS = np.random.default_rng(1).integers(2, 32, (4, L))
PROMPT = np.random.default_rng(2).normal(size=(P, 16)).astype(np.float32)


def loss(config, params, tokens=TOKENS, mesh=None, **layout):
    with sharding.active(mesh):
        logits = Transformer(config, functools.partial(Prompt, P)).apply(
            {"params": params}, tokens, TARGETS, TARGETS, enable_dropout=False, **layout
        )
    return jnp.sum(jnp.sin(logits) * np.linspace(0, 1, 32, dtype=np.float32)[None, None]), logits


def params_of(config):
    params = tiny.make_params(config)
    return params | {"encoder": params["encoder"] | {"prompt": {"prompt": jnp.asarray(PROMPT)}}}


def values(config, mesh=None, **layout):
    """Logits, and the prompt's gradient."""
    params = params_of(config)

    def of_prompt(prompt):
        encoder = params["encoder"] | {"prompt": {"prompt": prompt}}
        return loss(config, params | {"encoder": encoder}, mesh=mesh, **layout)

    prompt = PROMPT if mesh is None else jax.device_put(PROMPT, sharding.replicated(mesh))
    gradient, logits = jax.jit(jax.grad(of_prompt, has_aux=True))(prompt)
    return logits, gradient


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * np.abs(b).max())


# ---- the fused form is the dense one ---------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"scan_layers": True, "remat_policy": "minimal"},
        slow({}),
        slow({"prompt_visibility": "isolated"}),
        slow({"prompt_visibility": "causal"}),
        slow({"layer_relpos_bias": True}),
        slow({"remat_policy": "full"}),
    ],
    ids=str,
)
def test_fused_in_the_network(changes):
    config = dataclasses.replace(DENSE, **changes)
    fused = dataclasses.replace(config, **FUSED)
    assert "pallas_call" in str(jax.make_jaxpr(lambda: loss(fused, params_of(fused)))())
    assert_close(values(fused), values(config))


@pytest.mark.slow
def test_fused_keeps_examples_of_a_packed_row_apart():
    tokens, positions = place_prompt(TOKENS, P)
    packed = {
        "tokens": tokens,
        "prompt_positions": positions,
        "encoder_segment_ids": np.repeat([[1, 2]], [P + 30, T - 30], axis=1).repeat(4, axis=0),
        "decoder_segment_ids": np.repeat([[1, 2]], [2, L - 2], axis=1).repeat(4, axis=0),
    }
    fused = dataclasses.replace(DENSE, **FUSED)
    assert_close(values(fused, **packed), values(DENSE, **packed))


@pytest.mark.parametrize("spec", ["model:2", slow("data:2")])
def test_fused_over_a_mesh(spec):
    fused = dataclasses.replace(DENSE, **FUSED)
    assert_close(values(fused, mesh=sharding.make_mesh(spec)), values(DENSE))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.with mesh:DeprecationWarning")
def test_fused_over_a_mesh_that_is_entered_the_older_way(key):
    q, k, v = jax.random.normal(key, (3, 2, 2, 64, 8))
    bias = Bias(mask_bias(np.ones((2, 1, 64), bool)))
    rules = tuple(sharding.RULES_IN_USE.items())
    with sharding.make_mesh("data:2"), partitioning.axis_rules(rules):
        found = jax.jit(lambda q: attend(q, k, v, bias, form="fused"))(q)
    assert_close(found, attend(q, k, v, bias, form="dense"))


def test_a_bias_that_is_trained_has_its_gradient():
    """In model tuning, where everything does."""

    def gradients(config):
        return jax.jit(jax.grad(lambda params: loss(config, params)[0]))(params_of(config))

    ours = gradients(dataclasses.replace(DENSE, **FUSED))
    assert np.abs(ours["encoder"]["relpos_bias"]["rel_embedding"]).max() > 0.01
    assert_close(ours, gradients(DENSE))


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
