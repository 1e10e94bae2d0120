"""The mesh and the partition table, on two simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from prompt_tuning_jax import optim, sharding
from prompt_tuning_jax.t5 import T5Config

TIED = {"logits_via_embedding": True, "mlp_activations": ("relu",)}
BATCH = {
    "encoder_input_tokens": jnp.array([[5, 6, 7, 1], [8, 9, 1, 0]]),
    "decoder_input_tokens": jnp.array([[0, 5], [0, 6]]),
}


@pytest.mark.parametrize(
    ("spec", "data", "model"),
    [
        ("data:-1", 2, 1),
        ("data:2", 2, 1),
        ("model:2", 1, 2),
        ("data:1,model:2", 1, 2),
        ("model:2, data:-1", 1, 2),
        ("data:-1,model:1", 2, 1),
    ],
)
def test_mesh_sizes(spec, data, model):
    assert dict(sharding.make_mesh(spec).shape) == {"data": data, "model": model}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("rows:2", "'rows:2'.*data, model"),
        ("data", "AXIS:SIZE"),
        ("data:two", "AXIS:SIZE"),
        ("", "AXIS:SIZE"),
        ("data:0,model:-1", "AXIS:SIZE"),
        ("data:-2", "AXIS:SIZE"),
        ("data:4", "4 devices.*2"),
        ("data:-1,model:3", "devices"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(spec, words):
    with pytest.raises(ValueError, match=words):
        sharding.make_mesh(spec)


@pytest.mark.parametrize("changes", [{}, TIED], ids=["t5_1_1", "t5_1_0"])
def test_every_axis_of_every_parameter_has_a_rule(vocabulary, changes):
    config = tiny.make_config(vocabulary, **changes)
    axes = sharding.logical_axes(config)
    params = optim.flatten(tiny.make_params(config))
    assert set(axes) == set(params)
    assert all(len(axes[name]) == params[name].ndim for name in params)
    assert {axis for names in axes.values() for axis in names} <= set(sharding.AXIS_RULES)


def test_weights_are_split_and_the_prompt_is_not(model):
    flat = {**optim.flatten(model.params), optim.PROMPT_NAME: jnp.zeros((4, 16))}
    mesh = sharding.make_mesh("model:2")
    shardings = sharding.param_shardings(mesh, model.config, flat)
    parts = {name: shardings[name].shard_shape(x.shape) for name, x in flat.items()}
    whole = {name for name, x in flat.items() if parts[name] == x.shape}
    assert parts["encoder/layers_0/attention/query/kernel"] == (16, 8)
    assert parts["decoder/layers_0/mlp/wo/kernel"] == (16, 16)
    assert parts["token_embedder/embedding"] == (model.config.vocab_size // 2, 16)
    assert optim.PROMPT_NAME in whole
    assert all(name.endswith("scale") for name in whole - {optim.PROMPT_NAME})


def test_what_does_not_divide_is_replicated():
    config = T5Config(
        vocab_size=33, emb_dim=8, num_heads=1, head_dim=8, mlp_dim=8,
        num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    flat = optim.flatten(tiny.make_params(config))
    shardings = sharding.param_shardings(sharding.make_mesh("model:2"), config, flat)
    assert shardings["token_embedder/embedding"].is_fully_replicated
    assert shardings["encoder/relpos_bias/rel_embedding"].is_fully_replicated
    assert not shardings["encoder/layers_0/mlp/wo/kernel"].is_fully_replicated


@pytest.mark.parametrize("spec", ["data:2", "model:2"])
def test_logits_do_not_depend_on_the_mesh(model, spec):
    mesh = sharding.make_mesh(spec)
    flat = optim.flatten(model.params)
    placed = jax.device_put(flat, sharding.param_shardings(mesh, model.config, flat))
    batch = jax.device_put(BATCH, sharding.batch_sharding(mesh))
    logits = model.replace(params=optim.unflatten(placed)).logits(**batch)
    np.testing.assert_allclose(logits, model.logits(**BATCH), rtol=0, atol=1e-5)
