"""Scanned layers: the same numbers as layers of their own, and T5X's scalable T5."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_same, slow
from flax.traverse_util import flatten_dict, unflatten_dict
from test_t5_network import (
    BATCH,
    CONFIG,
    PROMPTED_IO,
    PROMPTED_PARAMS,
    TARGETS,
    TOKENS,
    VALID,
    P,
    apply,
    close,
    jit,
    loss,
    run,
    step_by_step,
)

from prompt_tuning_jax.decoding import generation
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.family import family_of
from prompt_tuning_jax.models.t5 import Transformer, scan
from prompt_tuning_jax.models.t5.scan import stack_layers
from prompt_tuning_jax.prompts import Prompt

SCAN = dataclasses.replace(CONFIG, scan_layers=True)
PROMPT = functools.partial(Prompt, P)
OWN, SCANNED = Transformer(CONFIG, PROMPT), Transformer(SCAN, PROMPT)
STACKED = stack_layers(PROMPTED_PARAMS)
BIAS = "relpos_bias/rel_embedding"


def flat(tree) -> dict:
    return flatten_dict(tree, sep="/")


def with_own_biases() -> dict:
    """Stacked weights whose layers have different biases, as trained scanned models have."""
    changed = flat(STACKED)
    for stack in ("encoder", "decoder"):
        name = f"{stack}/{stack}/{BIAS}"
        changed[name] = changed[name] + np.array([0.0, 0.5], np.float32)[None, :, None]
    return unflatten_dict(changed, sep="/")


# ---- the weights -----------------------------------------------------------------------------


def test_stacking_keeps_dtypes_and_jax_arrays():
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), PROMPTED_PARAMS)
    leaves = jax.tree.leaves(stack_layers(params))
    assert all(isinstance(x, jax.Array) and x.dtype == jnp.bfloat16 for x in leaves)


def test_what_the_network_makes_is_what_stacking_gives(key):
    variables = jax.eval_shape(SCANNED.init, key, *BATCH)
    shapes = {name: leaf.shape for name, leaf in flat(variables["params"]).items()}
    assert shapes == {name: leaf.shape for name, leaf in flat(STACKED).items()}
    axes = flat(variables["params_axes"])
    assert axes.keys() == {f"{name}_axes" for name in shapes}
    assert axes["decoder/decoder/mlp/wo/kernel_axes"].names == ("mlp", "layers", "embed")
    assert axes["encoder/prompt/prompt_axes"].names == ("prompt", "embed")


@pytest.mark.slow
def test_initial_weights_have_the_scales_of_layers_of_their_own(key):
    config = dataclasses.replace(SCAN, emb_dim=64, num_heads=4, head_dim=16, mlp_dim=256)
    params = flat(jit(Transformer(config).init)(key, *BATCH)["params"])
    for name, scale in {
        "encoder/encoder/attention/query/kernel": 1 / 32,
        "encoder/encoder/attention/out/kernel": 1 / 8,
        "encoder/encoder/mlp/wo/kernel": 1 / 16,
    }.items():
        first, second = (np.asarray(params[name][:, i]) for i in range(2))
        np.testing.assert_allclose([first.std(), second.std()], scale, rtol=0.05)
        assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stack_layers(STACKED), "encoder cannot be stacked: that takes encoder/layers_0"),
        (
            lambda: stack_layers(
                unflatten_dict(
                    {k: v for k, v in flat(PROMPTED_PARAMS).items() if "er/layers_0/mlp" not in k},
                    sep="/",
                )
            ),
            "with the same parameters each",
        ),
    ],
)
def test_what_cannot_be_stacked_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_stacked_weights_are_sharded_as_those_of_single_layers():
    mesh = sharding.make_mesh("model:-1")
    shardings = sharding.param_shardings(mesh, SCAN, flat(STACKED))
    specs = {name: tuple(value.spec) for name, value in shardings.items()}
    assert specs["encoder/encoder/attention/query/kernel"] == ("fsdp", None, "model", None)
    assert specs["encoder/encoder/attention/out/kernel"] == ("model", None, None, "fsdp")
    assert specs["decoder/decoder/mlp/wo/kernel"] == ("model", None, "fsdp")


# ---- the numbers -----------------------------------------------------------------------------


def test_logits_agree_with_the_reference():
    close(run(SCANNED, STACKED, *BATCH)[VALID], PROMPTED_IO["logits"][VALID])


def test_every_gradient_equals_that_of_layers_of_their_own():
    """A bias that layers share collects the gradients of all."""
    gradient = jit(
        jax.grad(lambda params, network: loss(network, params, PROMPTED_IO)), static_argnums=1
    )
    own, scanned = gradient(PROMPTED_PARAMS, OWN), flat(gradient(STACKED, SCANNED))
    for stack in ("encoder", "decoder"):
        assert_same(
            scanned[f"{stack}/{stack}/{BIAS}"].sum(axis=1),
            own[stack]["relpos_bias"]["rel_embedding"],
        )
    for name, expected in flat(stack_layers(own)).items():
        if not name.endswith(BIAS):
            assert_same(scanned[name], expected)


@pytest.mark.slow
def test_layers_may_come_first():
    """Numbers, initial shapes and shardings are those of T5X's order."""
    config, params = scan.scanned(CONFIG, PROMPTED_PARAMS)
    assert config == dataclasses.replace(SCAN, scan_axis=0)
    first = Transformer(config, PROMPT)
    for name, x in flat(STACKED).items():
        theirs = flat(params)[name]
        if "/encoder/" in name or "/decoder/" in name:
            theirs = np.moveaxis(theirs, 0, 1)
        np.testing.assert_array_equal(theirs, x)
    shapes = family_of(config).abstract_variables(config, (P, CONFIG.emb_dim))["params"]
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, params)
    specs = sharding.param_shardings(sharding.make_mesh("model:-1"), config, flat(params))
    kernel = specs["encoder/encoder/attention/query/kernel"]
    assert tuple(kernel.spec) == (None, "fsdp", "model", None)
    assert_same(run(first, params, *BATCH), run(SCANNED, STACKED, *BATCH))
    value = jit(
        jax.grad(lambda params, network: loss(network, params, PROMPTED_IO)), static_argnums=1
    )
    ours, expected = (
        value(*pair)["encoder"]["prompt"] for pair in ((params, first), (STACKED, SCANNED))
    )
    jax.tree.map(assert_same, ours, expected)


def test_each_layer_uses_its_own_bias():
    """A bias with 0.5 more everywhere changes no softmax; another bias in one layer does."""
    expected = run(SCANNED, STACKED, *BATCH)
    assert_same(run(SCANNED, with_own_biases(), *BATCH), expected)
    changed = flat(STACKED)
    name = f"decoder/decoder/{BIAS}"
    changed[name] = changed[name].copy()
    changed[name][:, 1, :1] += 3.0
    other = run(SCANNED, unflatten_dict(changed, sep="/"), *BATCH)
    assert np.abs(other - expected).max() > 1e-2


@functools.cache
def prompt_gradient(network):
    params = STACKED if network.scan_layers else PROMPTED_PARAMS

    def loss_of(prompt):
        encoder = {**params["encoder"], "prompt": {"prompt": prompt}}
        return loss(network, {**params, "encoder": encoder}, PROMPTED_IO)

    return jit(jax.grad(loss_of))(params["encoder"]["prompt"]["prompt"])


@pytest.mark.parametrize(
    ("network", "policy"),
    [(OWN, "minimal"), slow(OWN, "full"), slow(SCANNED, "minimal"), slow(SCANNED, "full")],
)
def test_rematerialisation_changes_no_number(network, policy):
    params = STACKED if network.scan_layers else PROMPTED_PARAMS
    config = dataclasses.replace(network.config, remat_policy=policy)
    again = Transformer(config, PROMPT)
    expected = prompt_gradient(network)
    assert_same(prompt_gradient(again), expected)
    shapes = jax.eval_shape(again.init, jax.random.key(0), *BATCH)["params"]
    assert flat(shapes).keys() == flat(params).keys()


@pytest.mark.slow
def test_dropout_differs_from_layer_to_layer_and_follows_its_key(key):
    config = dataclasses.replace(SCAN, dropout_rate=0.5)
    network = Transformer(config, PROMPT)
    np.testing.assert_array_equal(run(network, STACKED, *BATCH), run(SCANNED, STACKED, *BATCH))
    dropped = [
        run(network, STACKED, *BATCH, enable_dropout=True, rngs={"dropout": rng})
        for rng in (key, key, jax.random.key(1))
    ]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert not np.allclose(dropped[0], dropped[2])


def test_depth_does_not_make_the_program_longer():
    def lines(depth):
        config = dataclasses.replace(SCAN, num_encoder_layers=depth, num_decoder_layers=depth)
        network = Transformer(config, PROMPT)
        shapes = jax.eval_shape(network.init, jax.random.key(0), *BATCH)["params"]
        step = jax.grad(lambda params: apply(network, {"params": params}, *BATCH).sum())
        return len(jax.jit(step).lower(shapes).as_text().splitlines())

    assert lines(9) == lines(3)


# ---- decoding --------------------------------------------------------------------------------


@pytest.mark.parametrize("project", [False, True])
def test_steps_equal_the_full_forward(project):
    logits, cache = step_by_step(SCANNED, STACKED, (1,) * 7, project=project)
    assert_same(logits, run(SCANNED, STACKED, *BATCH))
    shapes = {name: leaf.shape for name, leaf in flat(cache["decoder"]).items()}
    key_shape = (2, 3, 2, 7, 8)  # layers first, as T5X asks of a module with `scan_layers`
    assert shapes["decoder/self_attention/cached_key"] == key_shape
    assert shapes["cache_index"] == ()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"beams": 4, "length_penalty": 0.6}])
def test_generated_text_is_that_of_layers_of_their_own(settings):
    generate = functools.partial(generation.generate_tokens, max_length=6, **settings)
    params = jax.tree.map(jnp.asarray, (PROMPTED_PARAMS, STACKED))
    expected = generate(OWN, params[0], TOKENS, return_all_beams=True)
    found = generate(SCANNED, params[1], TOKENS, return_all_beams=True)
    np.testing.assert_array_equal(found[0], expected[0])
    assert_same(found[1], expected[1])


@pytest.mark.slow
def test_rankings_are_those_of_layers_of_their_own():
    labels = np.array([[17, 1, 0], [5, 99, 1]])
    params = jax.tree.map(jnp.asarray, (PROMPTED_PARAMS, STACKED))
    expected = generation.rank(OWN, params[0], TOKENS, labels)
    assert_same(generation.rank(SCANNED, params[1], TOKENS, labels), expected)


# ---- T5X -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scalable():
    """T5X's scalable network and its variables, with a bias of its own for each layer."""
    from t5x.examples.scalable_t5 import network

    config = network.T5Config(
        vocab_size=128,
        emb_dim=16,
        num_heads=2,
        head_dim=8,
        mlp_dim=32,
        num_encoder_layers=2,
        num_decoder_layers=2,
        mlp_activations=("gelu", "linear"),
        dropout_rate=0.0,
    )
    theirs = network.Transformer(config)
    with jax.numpy_rank_promotion("allow"):
        init = functools.partial(theirs.init, enable_dropout=False)
        return theirs, jax.jit(init)(jax.random.key(3), *BATCH)


@pytest.mark.t5x
def test_parameter_tree_and_axes_are_those_of_t5x_s_scalable_t5(scalable, key):
    _, expected = scalable
    ours = jit(Transformer(SCAN).init)(key, *BATCH)
    shapes = jax.tree.map(jnp.shape, ours["params"])
    assert shapes == jax.tree.map(jnp.shape, expected["params"])
    assert ours["params_axes"] == expected["params_axes"]


@pytest.mark.t5x
def test_logits_agree_with_t5x_s_scalable_t5(scalable):
    theirs, variables = scalable
    biases = variables["params"]["encoder"]["encoder"]["relpos_bias"]["rel_embedding"]
    assert not np.array_equal(biases[:, 0], biases[:, 1])
    with jax.numpy_rank_promotion("allow"):
        expected = theirs.apply(variables, *BATCH, enable_dropout=False)
    close(run(Transformer(SCAN), variables["params"], *BATCH)[VALID], expected[VALID])


class Vocabulary:
    """What T5X's models ask of a vocabulary."""

    pad_id, eos_id, vocab_size = 0, 1, 128


@pytest.mark.t5x
def test_beam_search_under_t5x_equals_that_of_layers_of_their_own():
    from t5x import decoding as t5x_decoding
    from t5x import models

    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    batch = {name: jnp.asarray(value) for name, value in zip(names, BATCH, strict=True)}

    def predict(network, params):
        vocabulary = Vocabulary()
        beams = functools.partial(t5x_decoding.beam_search, alpha=0.6)
        model = models.EncoderDecoderModel(network, vocabulary, vocabulary, None, decode_fn=beams)
        predict = functools.partial(
            model.predict_batch_with_aux, num_decodes=4, return_all_decodes=True
        )
        return jax.jit(predict)(jax.tree.map(jnp.asarray, params), batch)

    with jax.numpy_rank_promotion("allow"):
        expected, expected_aux = predict(OWN, PROMPTED_PARAMS)
        found, found_aux = predict(SCANNED, STACKED)
    assert found.shape == (3, 4, TARGETS.shape[1])
    np.testing.assert_array_equal(found, expected)
    close(found_aux["scores"], expected_aux["scores"])
    np.testing.assert_array_equal(found, PROMPTED_IO["beam4_decodes"])
