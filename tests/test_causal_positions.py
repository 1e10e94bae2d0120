"""Rotary positions of every kind, as transformers turns them, by their old keys and the new."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from causal_models import HERE, MODELS, next_logits
from common import float64, widened

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.models.causal import CausalConfig, Rotary
from prompt_tuning_jax.models.causal.rotary import turned, turning

NUMBERS = dict(np.load(HERE / "rotary.npz"))
KINDS = [name.removesuffix("_rope") for name in NUMBERS if name.endswith("_rope")]
LENGTH, THETA = 64, 500.0


def changed(tmp_path, name="llama_tied", **fields):
    """A copy of a model, with other fields in config.json; None takes one out."""
    path = tmp_path / "changed"
    shutil.copytree(MODELS[name], path, copy_function=shutil.copyfile)
    raw = json.loads((path / "config.json").read_text())
    raw |= {"max_position_embeddings": LENGTH, "rope_parameters": None} | fields
    (path / "config.json").write_text(json.dumps(raw))
    return path


def config_of(path) -> CausalConfig:
    return huggingface.load_lazily(path)[0]


def rope(kind):
    return json.loads(str(NUMBERS[f"{kind}_rope"]))


def old_style(kind):
    fields = rope(kind)
    return {"rope_theta": THETA, "rope_scaling": {"type": fields.pop("rope_type")} | fields}


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_logits(kind, tmp_path):
    path = changed(tmp_path, rope_parameters=rope(kind) | {"rope_theta": THETA})
    logits = next_logits(pt.load_model(path), NUMBERS["input_ids"])[:, 9::10, :128]
    np.testing.assert_allclose(logits, NUMBERS[kind], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_old_keys_say_the_same_and_it_is_written_again(kind, tmp_path):
    path = changed(tmp_path, rope_parameters=rope(kind) | {"rope_theta": THETA})
    config, weights, _ = huggingface.load(path)
    assert config_of(changed(tmp_path / "old", **old_style(kind))) == config
    huggingface.save(tmp_path / "again", config, weights)
    assert config_of(tmp_path / "again") == config


@pytest.mark.parametrize("kind", ["yarn", "yarn_between"])
def test_the_pairs_of_wide_heads(kind):
    """Those of Qwen2.5 as its page says to lengthen it: 64 pairs, many of them between."""
    scale = NUMBERS[f"wide_{kind}_scale"]
    rotary = Rotary(1e6, "yarn", 4.0, 1.0, 32.0, 32768, kind == "yarn", scale=float(scale))
    radians, scales = turning(rotary, 128)
    np.testing.assert_allclose(radians, NUMBERS[f"wide_{kind}"], rtol=2e-6)
    np.testing.assert_array_equal(scales, scale)


def test_layers_that_do_not_turn_are_not_scaled():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 3, 8)), jnp.float32)
    np.testing.assert_array_equal(turned(x, jnp.arange(3)[None, :], turning(None, 8)), x)


def test_what_the_files_do_not_say_is_filled_in(tmp_path):
    """transformers' own: the length is the model's, the factor the ratio of two lengths."""
    yarn = {"type": "yarn", "original_max_position_embeddings": 16}
    found = config_of(changed(tmp_path, rope_scaling=yarn)).layers[0].rotary
    assert (found.factor, found.original_length, found.high, found.low) == (4.0, 16, 32.0, 1.0)
    llama3 = {"type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    path = changed(tmp_path / "llama3", rope_scaling=llama3)
    assert config_of(path).layers[0].rotary.original_length == LENGTH
    outside = {"rope_scaling": yarn, "original_max_position_embeddings": 32}
    path = changed(tmp_path / "outside", **outside)
    assert config_of(path).layers[0].rotary.original_length == 32


def test_a_kind_that_depends_on_a_rows_length_ends_with_the_length_it_is_plain_for(tmp_path):
    fields = {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 8}
    model = pt.load_model(changed(tmp_path, **fields))
    start = np.full((1, 1), model.config.start_id, np.int32)
    model.logits(np.full((1, 8), 5, np.int32), start)
    with pytest.raises(ValueError, match="Rows have 9 positions, but this model knows only 8"):
        model.logits(np.full((1, 9), 5, np.int32), start)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_scaling": {"type": "longrope", "factor": 4.0}}, "type 'longrope' are not done"),
        ({"rope_scaling": {"type": "yarn", "factor": -1}}, "factor must be a number above 0"),
        ({"rope_scaling": {"type": "yarn", "truncate": 1}}, "truncate must be true or false"),
        ({"rope_scaling": {"type": "dynamic"}}, "dynamic rotary positions need 'factor'"),
        ({"rope_scaling": "yarn"}, "rope_scaling must be an object, not 'yarn'"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2}, "max_position_embeddings": None},
            "has no 'max_position_embeddings'",
        ),
    ],
)
def test_what_is_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config_of(changed(tmp_path, **fields))


def test_layers_differ_by_type_where_the_file_says_so(tmp_path):
    """As Gemma 3's do: the far-sighted ones are lengthened, those with a window are not."""
    if "gemma3" not in MODELS:
        pytest.skip("needs the shared goldens")
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}
    near = {"rope_type": "default", "rope_theta": 1e4}
    by_type = {"full_attention": yarn, "sliding_attention": near}
    path = changed(tmp_path, "gemma3", rope_parameters=by_type)
    kinds = {layer.window is None: layer.rotary.kind for layer in config_of(path).layers}
    assert kinds == {True: "yarn", False: "default"}
    ids = np.arange(40, dtype=np.int32)[None, :] + 5
    model = pt.load_model(path)
    with float64():
        config, params = widened(model.config, model.params)
        model = model.replace(config=config, params=params)
        plain = next_logits(model, ids)
        stacked = next_logits(model.scanned(), ids)
    np.testing.assert_allclose(stacked, plain, atol=2e-5, rtol=0)
