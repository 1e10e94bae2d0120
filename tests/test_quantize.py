"""int8 weights: how wrong they are, what they leave alone, and that prompts fit and train."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax.traverse_util import flatten_dict, unflatten_dict

from prompt_tuning_jax import load_model, load_prompt
from prompt_tuning_jax.bundled.tasks import bundled_task
from prompt_tuning_jax.checkpoints import huggingface, quantize, t5x
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.data.batches import eval_batches
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.products import SCALE
from prompt_tuning_jax.models.t5 import T5Config, Transformer
from prompt_tuning_jax.models.t5.scan import stack_layers
from prompt_tuning_jax.params import flatten
from prompt_tuning_jax.train import train

TOKENS = jnp.array([[5, 6, 7, 8, 1, 0], [9, 3, 1, 0, 0, 0]])
TARGETS = jnp.array([[0, 4, 5], [0, 7, 2]])
BATCH = {
    "encoder_input_tokens": TOKENS,
    "decoder_input_tokens": TARGETS,
    "decoder_target_tokens": TARGETS + 1,
    "decoder_loss_weights": jnp.ones(TARGETS.shape),
}


def quantized(params) -> dict:
    quantizer, flat = quantize.Quantizer(), flatten_dict(params, sep="/")
    parts = [quantizer(name, weight) for name, weight in flat.items()]
    return unflatten_dict({n: x for part in parts for n, x in part.items()}, sep="/")


def dequantized(params) -> dict:
    flat = flatten_dict(params, sep="/")
    floats = {
        name: quantize.dequantize(x, flat.get(name + SCALE))
        for name, x in flat.items()
        if not name.endswith(SCALE)
    }
    return unflatten_dict(floats, sep="/")


def small_config(**changes) -> T5Config:
    sizes = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}
    depth = {"num_encoder_layers": 2, "num_decoder_layers": 2}
    return T5Config(vocab_size=32, **sizes, **depth, **changes)


def logits(config, params):
    return Transformer(config).apply(
        {"params": params}, TOKENS, TARGETS, TARGETS, enable_dropout=False
    )


@pytest.fixture(scope="module")
def tiny_int8(model_dir):
    return load_model(model_dir, dtype="int8")


@pytest.fixture(scope="module")
def bundled():
    return load_model("bundled")


@pytest.fixture(scope="module")
def bundled_int8():
    return load_model("bundled", dtype="int8")


# ---- one weight ------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2)])
def test_a_weight_is_wrong_by_at_most_half_a_scale(axes):
    weight = np.random.default_rng(0).normal(size=(12, 7, 5)).astype(np.float32)
    values, scale = quantize.quantize(weight, axes)
    assert (values.dtype, scale.dtype) == (jnp.int8, jnp.float32)
    assert scale.shape == tuple(1 if i in axes else n for i, n in enumerate(weight.shape))
    error = np.abs(quantize.dequantize(values, scale) - weight)
    assert np.all(error <= 0.5001 * np.asarray(scale))
    np.testing.assert_array_equal(np.abs(values).max(axis=axes), 127)


def test_a_column_of_zeros_stays_zero():
    weight = np.zeros((4, 3), np.float32)
    weight[:, 1] = [1e-30, 0, -2e-30, 0]
    values, scale = quantize.quantize(weight, (0,))
    assert np.isfinite(scale).all()
    np.testing.assert_allclose(quantize.dequantize(values, scale), weight, atol=1e-32)


# ---- a model ---------------------------------------------------------------------------------


def test_matrices_are_int8_and_nothing_else(tiny_int8, model):
    ours, theirs = (flatten_dict(m.params, sep="/") for m in (tiny_int8, model))
    for name, weight in theirs.items():
        is_matrix = name.endswith(("/kernel", "/embedding"))
        assert ours[name].dtype == (jnp.int8 if is_matrix else jnp.float32), name
        assert ours[name].shape == weight.shape
        assert (name + SCALE in ours) == is_matrix
    assert len(ours) == len(theirs) + sum(x.dtype == jnp.int8 for x in ours.values())


def test_weights_take_a_quarter_of_the_memory(bundled, bundled_int8):
    sizes = [sum(x.nbytes for x in jax.tree.leaves(m.params)) for m in (bundled_int8, bundled)]
    assert sizes[0] < 0.26 * sizes[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"logits_via_embedding": True, "mlp_activations": ("relu",)}, {"scan_layers": True}],
)
def test_the_network_computes_with_what_the_weights_stand_for(changes):
    config = small_config(**changes)
    params = quantized(tiny.make_params(config))
    expected = logits(config, dequantized(params))
    np.testing.assert_allclose(logits(config, params), expected, atol=1e-4 * np.std(expected))


@pytest.mark.slow
def test_the_gradient_is_that_of_what_the_weights_stand_for(tiny_int8):
    prompt = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    floats = tiny_int8.replace(params=dequantized(tiny_int8.params))
    ours, theirs = (jax.grad(lambda p, m=m: m.loss(BATCH, p))(prompt) for m in (tiny_int8, floats))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.slow
def test_activations_may_be_bfloat16(tiny_int8, model):
    prompt = np.ones((3, 16), np.float32)
    config = dataclasses.replace(model.config, dtype=jnp.bfloat16)

    def rounding(model):
        """Root mean square of what bfloat16 activations change in the logits."""
        exact = model.logits(TOKENS, TARGETS, prompt)
        rounded = model.replace(config=config).logits(TOKENS, TARGETS, prompt)
        assert rounded.dtype == jnp.float32
        return np.sqrt(np.mean((rounded - exact) ** 2))

    assert 0 < rounding(tiny_int8) < 2 * rounding(model)


@pytest.mark.slow
def test_stacked_layers_have_the_same_values():
    params = tiny.make_params(small_config())
    stacked = stack_layers(quantized(params))
    expected = quantized(stack_layers(params))
    assert jax.tree.structure(stacked) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, stacked, expected)


def test_the_fingerprint_is_the_float_models(tiny_int8, model):
    assert tiny_int8.fingerprint == model.fingerprint == fingerprint(model.params)


def test_embeddings_are_floats(tiny_int8, model):
    table, exact = tiny_int8.embeddings, model.embeddings
    assert table.dtype == jnp.float32
    np.testing.assert_allclose(table, exact, atol=np.abs(exact).max() / 127)


@pytest.mark.slow
def test_over_a_mesh_the_numbers_are_the_same(tiny_int8, model_dir):
    mesh = sharding.make_mesh("model:2")
    split = load_model(model_dir, dtype="int8", mesh=mesh)
    kernel = split.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    assert kernel.dtype == jnp.int8
    assert kernel.sharding.shard_shape(kernel.shape) == (16, 16)  # of [16, 32]
    assert split.fingerprint == tiny_int8.fingerprint
    expected = tiny_int8.logits(TOKENS, TARGETS)
    np.testing.assert_allclose(split.logits(TOKENS, TARGETS), expected, rtol=1e-4, atol=1e-4)


def test_a_t5x_checkpoint_gives_the_same_weights(tiny_int8, model, tmp_path):
    path = t5x.save(tmp_path, model.params)
    loaded = load_model(path, dtype="int8")
    assert loaded.fingerprint == tiny_int8.fingerprint
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.params), dict(tiny_int8.params))


@pytest.mark.parametrize(
    "save",
    [
        lambda path, model: huggingface.save(path, model.config, model.params),
        lambda path, model: t5x.save(path, model.params),
    ],
)
def test_int8_weights_are_not_saved(save, tiny_int8, tmp_path):
    with pytest.raises(ValueError, match="load the model as float32 or bfloat16"):
        save(tmp_path / "out", tiny_int8)
    assert not (tmp_path / "out").exists()


# ---- what it costs in accuracy ---------------------------------------------------------------


def cosine(a, b) -> float:
    return float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.slow
def test_the_bundled_models_logits_and_gradients_hardly_move(bundled, bundled_int8):
    examples = list(bundled_task("bundled_topic").split("validation"))[:16]
    prompt = load_prompt("bundled_topic")
    lengths = {"inputs": 64, "targets": 8}
    _, batch = next(eval_batches(examples, bundled.vocabulary, batch_size=16, lengths=lengths))
    real = np.asarray(batch["decoder_loss_weights"]) > 0
    names = ("encoder_input_tokens", "decoder_input_tokens")
    tokens = [batch[name] for name in names]
    exact, ours = (np.asarray(m.logits(*tokens, prompt))[real] for m in (bundled, bundled_int8))
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 0.01 * exact.std()
    start = bundled.embeddings[100 : 100 + len(prompt.values)]
    grads = [jax.grad(lambda p, m=m: m.loss(batch, p))(start) for m in (bundled, bundled_int8)]
    assert cosine(*grads) > 0.99


@pytest.mark.slow
def test_a_prompt_tuned_on_floats_scores_the_same(bundled, bundled_int8):
    task, prompt = bundled_task("bundled_topic"), load_prompt("bundled_topic")
    examples = list(itertools.islice(task.split("validation").stream(seed=None, epoch=0), 60))
    texts, answers = zip(*((e["inputs"], e["targets"]) for e in examples), strict=True)
    exact, ours = (
        np.array(m.classify(texts, task.verbalizers, prompt, max_input_length=64).labels)
        for m in (bundled, bundled_int8)
    )
    assert np.mean(exact == answers) > 0.95
    assert np.sum(exact != ours) <= 1


# ---- training --------------------------------------------------------------------------------


@pytest.fixture
def start(tiny_int8, tmp_path, one_device):
    settings = {"prompt_length": 5, "batch_size": 8, "eval_period": 4, "checkpoint_period": 2}
    common = {"task": tiny.make_task(), "feature_lengths": tiny.LENGTHS, "quiet": True}
    run = functools.partial(train, model_dir=str(tmp_path), model=tiny_int8)
    return functools.partial(run, **settings, **common, model_dtype="int8")


@pytest.mark.slow
def test_a_prompt_trains_and_int8_weights_do_not(start, tiny_int8, model):
    before = {name: np.array(x) for name, x in flatten(tiny_int8.params).items()}
    start(train_steps=2)
    result = start(train_steps=4)  # continues
    assert [scores["step"] for scores in result.history] == [2, 4]
    after = flatten(result.model.params)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        np.testing.assert_array_equal(after[name], weight, err_msg=name)
    assert result.prompt.metadata["base_model_fingerprint"] == model.fingerprint


@pytest.mark.parametrize(
    "changes", [{"prompt_length": 0}, {"trainable": ((".*", optax.adam(0.1)),)}]
)
def test_only_a_prompt_can_train(start, changes):
    with pytest.raises(ValueError, match="With model_dtype=int8 only the prompt can train"):
        start(train_steps=1, **changes)
