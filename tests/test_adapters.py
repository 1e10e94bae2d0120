"""Adapters within a frozen network: PEFT's numbers, their laws, their files."""

import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from causal_models import MODELS, next_logits
from common import GOLDENS, float64, slow, widened
from family_laws import assert_alike
from safetensors.numpy import load_file, save_file

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.adapters import adapter_file, peft_prefix, peft_tensors
from prompt_tuning_jax.checkpoints.adapters.adapter import Adapter
from prompt_tuning_jax.checkpoints.quantize import Quantizer
from prompt_tuning_jax.methods.adapters import choice
from prompt_tuning_jax.methods.adapters.method import Options, kernels
from prompt_tuning_jax.models.adapters import BIAS, IN_SCALE, LORA_A, LORA_B, LORA_SCALE, OUT_SCALE
from prompt_tuning_jax.models.family import family_of, start_decoding
from prompt_tuning_jax.optim import weighted_loss
from prompt_tuning_jax.params import PROMPT_NAME, flatten, unflatten

HERE = GOLDENS / "adapters"
KINDS = ("lora", "ia3", "prefix")
OPTIONS = Options(rank=3, alpha=6.0, length=4)


@pytest.fixture(scope="module")
def base():
    return pt.load_model(HERE)


@pytest.fixture(scope="module")
def t5():
    config = tiny.make_config(tiny.make_vocabulary())
    return pt.FrozenModel(config, jax.tree.map(jnp.asarray, tiny.make_params(config)))


@pytest.fixture(scope="module")
def causal():
    return pt.load_model(MODELS["qwen3"])


@pytest.fixture(scope="module")
def t5gemma():
    return pt.load_model(GOLDENS / "t5gemma")


@pytest.fixture
def model(request):
    """Of any kind."""
    return request.getfixturevalue(request.param)


BOTH = pytest.mark.parametrize("model", ["t5", "causal"], indirect=True)


def drawn(method, model, options=OPTIONS, seed=0) -> Adapter:
    """An adapter away from where it starts."""
    shapes = flatten(model.params)
    leaves = choice.start(method, jax.random.key(0), shapes, options)
    rng = np.random.default_rng(seed)
    moved = {
        name: x if name.endswith(LORA_SCALE) else x + rng.normal(0, 0.2, x.shape)
        for name, x in sorted(leaves.items())
    }
    return Adapter(method, {name: np.asarray(x, np.float32) for name, x in moved.items()})


def some_batch(model, targets=5):
    rng = np.random.default_rng(1)
    ids = rng.integers(3, 38, (2, 9 + targets)).astype(np.int32)
    ids[1, 6:9] = model.config.pad_id
    decoded = np.concatenate([np.full((2, 1), model.config.start_id), ids[:, 9:-1]], axis=1)
    return {
        "encoder_input_tokens": ids[:, :9],
        "decoder_input_tokens": decoded.astype(np.int32),
        "decoder_target_tokens": ids[:, 9:],
        "decoder_loss_weights": np.ones((2, targets), np.float32),
    }


def logits_of(model, batch):
    return np.asarray(model.logits(batch["encoder_input_tokens"], batch["decoder_input_tokens"]))


# --- PEFT's numbers


@pytest.fixture
def golden(kind):
    return dict(np.load(HERE / "io.npz")) | dict(np.load(HERE / f"{kind}.npz"))


def golden_batch(golden):
    targets = np.maximum(golden["labels"], 0)
    return {
        "encoder_input_tokens": golden["input_ids"] * golden["attention_mask"],
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (golden["labels"] >= 0).astype(np.float32),
    }


@pytest.mark.parametrize("kind", [slow("lora"), slow("ia3"), "prefix"])
def test_peft_greedy_ids(base, kind, golden):
    model, batch = base.adapted(HERE / kind), golden_batch(golden)
    expected = golden["greedy_ids"][:, 1:]
    inputs = batch["encoder_input_tokens"]
    found, _ = model.generate_tokens(inputs, max_length=expected.shape[1])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_peft_logits_loss_and_gradients(base, kind, golden):
    batch = golden_batch(golden)
    adapter = adapter_file.load_adapter(HERE / kind, base.config)
    leaves = {name: jnp.asarray(x) for name, x in adapter.leaves.items()}

    def loss(leaves):
        weights, targets = batch["decoder_loss_weights"], batch["decoder_target_tokens"]
        params = unflatten({**flatten(base.params), **leaves})
        logits = family_of(base.config).apply(base.config, params, batch)
        return weighted_loss(logits, targets, weights, z_loss=0.0) / weights.sum(), logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(leaves)
    valid = batch["decoder_loss_weights"] > 0
    np.testing.assert_allclose(logits[valid], golden["logits_valid"], atol=1e-4)
    np.testing.assert_allclose(value, golden["loss"], atol=5e-6)
    gradients = {name: np.asarray(x) for name, x in gradients.items()}
    for name, found in in_pefts_form(base.config, kind, gradients, golden).items():
        expected = golden[f"grad:{name}"]
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def in_pefts_form(config, kind, gradients, golden):
    """Gradients of our leaves as those of PEFT's tensors, of which some are several leaves."""
    if kind != "prefix":
        write = {"lora": peft_tensors.write_lora, "ia3": peft_tensors.write_ia3}[kind]
        return write(config, gradients)[1]
    tensor = golden["grad:prompt_embeddings"]
    entries = np.zeros((len(tensor), 4, tensor.shape[1] // 4), np.float32)
    folders = peft_prefix.folders_of(config)
    for folder, entry in zip(folders, peft_prefix.entries_of(2, 4, False), strict=True):
        for i, name in enumerate(("prefix_key", "prefix_value")):
            entries[:, entry + i] += gradients[folder + name]
    return {"prompt_embeddings": entries.reshape(tensor.shape)}


# --- laws of the networks


@BOTH
@pytest.mark.parametrize("method", ["lora", slow("ia3"), slow("bitfit")])
def test_an_adapter_begins_as_nothing(model, method):
    leaves = choice.start(method, jax.random.key(0), flatten(model.params), OPTIONS)
    batch = some_batch(model)
    adapted = model.adapted(Adapter(method, leaves))
    np.testing.assert_allclose(logits_of(adapted, batch), logits_of(model, batch), atol=1e-5)


@BOTH
@pytest.mark.parametrize("targets", [3, slow(20)])  # fewer and more than T5's head has dimensions
@pytest.mark.parametrize("dtype", ["float32", slow("int8")])
def test_applied_it_is_as_if_merged_into_the_weights(model, targets, dtype):
    """LoRA in every product, and IA3 around it."""
    flat = flatten(model.params)
    every = tuple({name.split("/")[-2].split("_")[0] for name in kernels(flat)})
    leaves = {
        **drawn("lora", model, OPTIONS._replace(targets=every)).leaves,
        **drawn("ia3", model).leaves,
    }
    merged = dict(flat)
    for name in kernels(flat):
        weight = np.asarray(flat[name])
        change = leaves[name + LORA_A] @ leaves[name + LORA_B] * leaves[name + LORA_SCALE]
        weight = (weight + change) * leaves.get(name + OUT_SCALE, np.float32(1))
        merged[name] = jnp.asarray(
            weight * leaves.get(name + IN_SCALE, np.ones(len(weight)))[:, None]
        )
    batch = some_batch(model, targets)
    expected = logits_of(model.replace(params=unflatten(merged)), batch)
    tolerance = 2e-4
    if dtype == "int8":
        quantized, tolerance = {}, 0.3
        for name, weight in flat.items():
            quantized |= Quantizer()(name, weight)
        model = model.replace(params=unflatten(quantized))
    found = logits_of(model.adapted(Adapter("lora", leaves)), batch)
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
    assert np.abs(logits_of(model, batch) - expected).max() > 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("model", ["t5", "causal", "t5gemma"], indirect=True)
def test_an_output_layer_of_its_own_takes_an_adapter(model):
    name, params = "decoder/logits_dense/kernel", flatten(model.params)
    if model.config.logits_via_embedding:
        config = dataclasses.replace(model.config, logits_via_embedding=False)
        params[name] = params["token_embedder/embedding"].T
        model = model.replace(config=config, params=unflatten(params))
    rng, (D, V) = np.random.default_rng(0), params[name].shape
    shapes = {LORA_A: (D, 3), LORA_B: (3, V), IN_SCALE: (D,), OUT_SCALE: (V,)}
    leaves = {end: rng.normal(size=shape).astype(np.float32) for end, shape in shapes.items()}
    leaves[LORA_SCALE] = np.float32(2)
    merged = params[name] + 2 * leaves[LORA_A] @ leaves[LORA_B]
    params[name] = leaves[IN_SCALE][:, None] * merged * leaves[OUT_SCALE][None, :]
    expected = logits_of(model.replace(params=unflatten(params)), some_batch(model))
    adapter = Adapter("lora", {name + end: values for end, values in leaves.items()})
    found = logits_of(model.adapted(adapter), some_batch(model))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_bias_is_a_bias():
    """Of a model that has some already: it is added to them."""
    model = pt.load_model(MODELS["gpt2"] if "gpt2" in MODELS else MODELS["qwen3"])
    if "gpt2" not in MODELS:
        pytest.skip("need real data: PROMPT_TUNING_SHARED=DIR")
    adapter, flat, batch = drawn("bitfit", model), flatten(model.params), some_batch(model)
    for name, values in adapter.leaves.items():
        flat[name.removesuffix("kernel" + BIAS) + "bias"] += values
    expected = logits_of(model.replace(params=unflatten(flat)), batch)
    np.testing.assert_allclose(logits_of(model.adapted(adapter), batch), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "method"),
    [
        slow("t5", "decoder_prompt"),
        slow("t5", "prefix"),
        slow("causal", "prefix"),
        slow("t5", "bitfit"),
        slow("causal", "bitfit"),
        slow("t5", "lora"),
        slow("t5gemma", "lora"),
        slow("t5gemma", "prefix"),
        slow("t5gemma", "bitfit"),
    ],
    indirect=["model"],
)
def test_step_by_step_is_as_all_at_once(model, method):
    """With a cache, and whatever the number of targets: cross-attention has two orders."""
    model = model.adapted(drawn(method, model, OPTIONS._replace(stack=stacks_of(model))))
    with float64():
        config, params = widened(model.config, model.params)
        check_step_by_step(model.replace(config=config, params=params))


def check_step_by_step(model):
    batch, family = some_batch(model, targets=4), family_of(model.config)
    expected = logits_of(model, batch)
    longer = some_batch(model, targets=20)
    longer = {name: x for name, x in longer.items() if name != "decoder_target_tokens"}
    longer["encoder_input_tokens"] = batch["encoder_input_tokens"]
    longer["decoder_input_tokens"][:, :4] = batch["decoder_input_tokens"]
    assert_alike(logits_of(model, longer)[:, :4], expected)
    tokens = jnp.asarray(batch["encoder_input_tokens"])
    net, tokens, places = family.bind(
        model.config, model.params, {"encoder_input_tokens": tokens}, "prefix"
    )
    decode = start_decoding(net, model.params, tokens, places)
    decode = jax.jit(decode, static_argnames="max_decode_length")
    decoded, found = jnp.asarray(batch["decoder_input_tokens"]), []
    _, cache = decode(decoded, max_decode_length=4)
    for i in range(4):
        one = decoded[:, i : i + 1]
        logits, cache = decode(one, cache=cache, max_decode_length=4)
        found.append(logits)
    assert_alike(jnp.concatenate(found, axis=1), expected)


def stacks_of(model):
    return "decoder" if model.config.continues_inputs else "both"


def test_a_prefix_of_a_causal_model_takes_the_first_positions(causal):
    """As keys and values of tokens do, which are turned where they stand."""
    ids = some_batch(causal)["encoder_input_tokens"][:1]
    adapter = drawn("prefix", causal, OPTIONS._replace(length=3))
    rows = next_logits(causal.adapted(adapter), ids)
    one_less = {name: x[1:] for name, x in adapter.leaves.items()}
    fewer = next_logits(causal.adapted(Adapter("prefix", one_less)), ids)
    assert np.abs(rows - fewer).max() > 1e-2


def test_a_prompt_and_a_prefix_go_together(causal):
    """A prompt at the input of an adapted model: the same in front and in its rows."""
    rng = np.random.default_rng(3)
    prompt = rng.normal(0, 0.5, (3, causal.config.emb_dim)).astype(np.float32)
    prefix, batch = drawn("prefix", causal), some_batch(causal)
    inputs, decoded = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    positions = np.array([[*range(3), *[-1] * 9]] * 2, np.int32)
    placed = np.pad(inputs, ((0, 0), (3, 0)), constant_values=causal.config.pad_id)
    whole = {**batch, "encoder_input_tokens": placed, "prompt_positions": positions}
    with float64():
        config, params = widened(causal.config, causal.params)
        adapted = causal.replace(config=config, params=params).adapted(prefix)
        expected = adapted.logits(inputs, decoded, prompt)
        apply = functools.partial(family_of(config).apply, config)
        found = jax.jit(apply)(adapted.prompted(prompt).params, whole)
        assert_alike(found, expected)


def test_a_prompt_before_the_decoder_is_more_targets(t5):
    """Of vocabulary rows it is those tokens, but that the first is a start token."""
    start = np.zeros(1, np.int32)
    ids, batch = np.array([5, 9, 4], np.int32), some_batch(t5)
    rows = np.asarray(t5.embeddings)[np.concatenate([start, ids[1:]])]
    inputs, decoded = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    adapted = t5.adapted(Adapter("decoder_prompt", {"decoder/decoder_prompt": rows}))
    before = np.broadcast_to(np.concatenate([start, ids[1:]]), (2, 3)).astype(np.int32)
    expected = t5.logits(inputs, np.concatenate([before, decoded], axis=1))[:, 3:]
    assert_alike(adapted.logits(inputs, decoded), expected)


def test_two_prompts_at_the_input_are_refused(t5):
    rows = np.zeros((2, t5.config.emb_dim), np.float32)
    leaves = {"decoder/decoder_prompt": rows, PROMPT_NAME: rows}
    adapted, batch = t5.adapted(Adapter("decoder_prompt", leaves)), some_batch(t5)
    logits_of(adapted, batch)
    with pytest.raises(ValueError, match="has a prompt at the input already"):
        adapted.logits(batch["encoder_input_tokens"], batch["decoder_input_tokens"], rows)


@pytest.mark.slow
def test_however_it_is_sharded_it_trains_alike(t5, tmp_path):
    """Its leaves are on all devices, beside weights that are split."""
    rules = [(".*/kernel_lora_[ab]", optax.sgd(0.1))]
    found = []
    with float64():
        config, params = widened(t5.config, t5.params)
        model = t5.replace(config=config, params=params, vocabulary=tiny.make_vocabulary())
        for mesh in ("data:2", "model:2"):
            asked = {"method": "lora", "mesh": mesh, "train_steps": 2}
            settings = tiny.short_run(model, tmp_path / mesh, **asked)
            del settings["prompt_length"], settings["learning_rate"]
            pt.train(**settings, trainable=rules)
            found.append(adapter_file.load_adapter(tmp_path / mesh / "last", t5.config).leaves)
    assert_alike(*found)


# --- files


@BOTH
@pytest.mark.parametrize("method", [name for name in choice.NAMES if name != "decoder_prompt"])
def test_it_is_read_as_it_was_written(model, method, tmp_path):
    adapter = drawn(method, model)
    facts = {"task": "food", "verbalizers": ["yes", "no"], "step": 3}
    given = Adapter(method, adapter.leaves, facts)
    adapter_file.save_adapter(tmp_path / "a", given, model.config, "some/model")
    found = adapter_file.load_adapter(tmp_path / "a", model.config)
    assert found.method == method
    assert found.metadata == facts | {"base_model": "some/model"}
    assert found.leaves.keys() == adapter.leaves.keys()
    for name, values in adapter.leaves.items():
        np.testing.assert_array_equal(found.leaves[name], values)
    assert adapter_file.is_adapter(tmp_path / "a")


def test_a_lora_of_several_ranks_is_read_as_it_was_written(base, copied, tmp_path):
    adapter = adapter_file.load_adapter(copied, base.config)
    one, other, *_ = (name.removesuffix(LORA_A) for name in adapter.leaves if LORA_A in name)
    changed = dict(adapter.leaves)
    changed[one + LORA_A] = changed[one + LORA_A][:, :2]
    changed[one + LORA_B] = changed[one + LORA_B][:2]
    changed[other + LORA_SCALE] = np.float32(7)
    folder = tmp_path / "several"
    adapter_file.save_adapter(folder, Adapter("lora", changed, {}), base.config, "some/model")
    settings = json.loads((folder / peft.CONFIG).read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 12)
    assert list(settings["rank_pattern"].values()) == [2]
    assert sorted(settings["alpha_pattern"].values()) == [6, 28]
    found = adapter_file.load_adapter(folder, base.config).leaves
    assert_alike(found, changed)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_it_is_written_as_peft_writes_it(base, kind, tmp_path):
    adapter = adapter_file.load_adapter(HERE / kind, base.config)
    adapter_file.save_adapter(tmp_path / "a", adapter, base.config, "seq2seq/t5_v5/model")
    for name in (peft.CONFIG, peft.WEIGHTS):
        assert (tmp_path / "a" / name).is_file()
    found, expected = (load_file(place / peft.WEIGHTS) for place in (tmp_path / "a", HERE / kind))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    found, expected = (
        json.loads((place / peft.CONFIG).read_text()) for place in (tmp_path / "a", HERE / kind)
    )
    for facts in (found, expected):
        for name in ("target_modules", "feedforward_modules"):
            facts[name] = sorted(facts.get(name) or [])
    assert found.items() <= {"feedforward_modules": [], **expected}.items()


def test_a_prefix_that_peft_would_read_otherwise_is_ours(base, t5, tmp_path):
    """PEFT gives two layers of an even number the same keys; see `peft_prefix`."""
    for name, model, is_pefts in (("two", base, False), ("one", t5, True)):
        adapter_file.save_adapter(tmp_path / name, drawn("prefix", model), model.config, "m")
        assert (tmp_path / name / peft.CONFIG).exists() == is_pefts
    # One in another's place: nothing of that stays.
    adapter_file.save_adapter(tmp_path / "two", drawn("lora", base), base.config, "m")
    assert adapter_file.load_adapter(tmp_path / "two", base.config).method == "lora"
    adapter_file.save_adapter(tmp_path / "two", drawn("bitfit", base), base.config, "m")
    assert adapter_file.load_adapter(tmp_path / "two", base.config).method == "bitfit"
    assert not (tmp_path / "two" / peft.CONFIG).exists()


# --- refusals


@pytest.fixture
def copied(tmp_path):
    return shutil.copytree(HERE / "lora", tmp_path / "lora")


def edit(directory, **changes):
    config = json.loads((directory / peft.CONFIG).read_text()) | changes
    (directory / peft.CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"peft_type": "ADALORA"}, "type ADALORA"),
        ({"peft_type": "PROMPT_TUNING"}, "load_prompt"),
        ({"task_type": "CAUSAL_LM"}, "for CAUSAL_LM"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which changes the model's own"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"alpha_pattern": {"(": 2}}, r"'.*\(\)' is no regular expression"),
        ({"alpha_pattern": [2]}, r"alpha_pattern must give patterns values, not be \[2\]"),
        ({"r": 5}, "has the rank 4, and by its settings 5"),
        ({"rank_pattern": {"block.1.layer.0.SelfAttention.q": 3}}, "the rank 4, and .* 3"),
        ({"target_modules": ["q"]}, r"\.v, which the settings' target_modules leave out"),
        ({"target_modules": r".*encoder.*\.q"}, "target_modules leave out"),
        ({"target_modules": 3}, "by a list or an expression, not 3"),
        ({"exclude_modules": ["v"]}, r"\.v, which the settings' exclude_modules leave out"),
        ({"layers_to_transform": [0]}, r"block\.1\..*layers_to_transform leave out"),
        ({"layers_to_transform": 0, "layers_pattern": "block"}, "layers_to_transform leave out"),
        ({"layers_to_transform": [0, 1], "layers_pattern": "h"}, "layers_to_transform leave out"),
        ({"layers_to_transform": [0], "layers_pattern": 3}, "by a list or an expression, not 3"),
    ],
)
def test_another_kind_is_refused(base, copied, changes, what):
    edit(copied, **changes)
    with pytest.raises(ValueError, match=what):
        base.adapted(copied)


@pytest.mark.parametrize("pattern", ["SelfAttention.q|EncDecAttention.v", r".*\.v|q"])
def test_an_alpha_of_the_modules_that_a_pattern_names(base, copied, pattern):
    """PEFT's own rule: the first pattern that a module's name ends with (`get_pattern_key`)."""
    edit(copied, alpha_pattern={pattern: 20}, init_lora_weights="gaussian")
    leaves = adapter_file.load_adapter(copied, base.config).leaves
    modules = peft_tensors.modules_of(base.config)
    for name, scale in leaves.items():
        if name.endswith(LORA_SCALE):
            module = modules[name.removesuffix(LORA_SCALE)]
            named = re.match(rf"(.*\.)?({pattern})$", module)
            assert float(scale) == (20 if named else 12) / 4, module
    assert len({float(x) for name, x in leaves.items() if name.endswith(LORA_SCALE)}) == (
        2 if "Enc" in pattern else 1
    )


def test_an_adapter_of_another_network_is_refused(base, t5, causal, copied):
    with pytest.raises(ValueError, match="changes nothing that can be changed in this model"):
        t5.adapted(copied)
    wider = {name: np.repeat(x, 2, axis=-1) for name, x in drawn("ia3", t5).leaves.items()}
    with pytest.raises(ValueError, match=r"is \[32\], but beside the weight there it is \[16\]"):
        t5.adapted(Adapter("ia3", wider))
    edit(copied, task_type=None)
    with pytest.raises(ValueError, match="changes nothing that can be changed in this model"):
        causal.adapted(copied)
    tensors = load_file(copied / peft.WEIGHTS)
    save_file(
        {**tensors, "base_model.model.shared.weight": np.zeros((2, 2))}, copied / peft.WEIGHTS
    )
    with pytest.raises(ValueError, match="shared"):
        base.adapted(copied)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda name, x: None if ".lora_A" in name else x, "A has the rank none, and B 4"),
        (lambda name, x: None if ".lora_B" in name else x, "A has the rank 4, and B none"),
        (lambda name, x: x.T if ".lora_A" in name else x, r"but beside .* it is \[40, any\]"),
        (lambda name, x: x[:, :2] if ".lora_B" in name else x, "A has the rank 4, and B 2"),
        (lambda name, x: x[0], r"is \[\d+\], no matrix"),
    ],
)
def test_half_a_lora_is_refused(base, copied, change, what):
    settings = json.loads((copied / peft.CONFIG).read_text())
    del settings["r"]  # which would say that there is another rank
    (copied / peft.CONFIG).write_text(json.dumps(settings))
    tensors = load_file(copied / peft.WEIGHTS)
    changed = {name: change(name, x) for name, x in tensors.items()}
    whole = {name: np.ascontiguousarray(x) for name, x in changed.items() if x is not None}
    save_file(whole, copied / peft.WEIGHTS)
    with pytest.raises(ValueError, match=what):
        base.adapted(copied)


@pytest.mark.parametrize(
    ("kind", "changes", "what"),
    [
        ("ia3", {"feedforward_modules": []}, "not what feedforward_modules say"),
        ("ia3", {"feedforward_modules": r".*\.(k|v)"}, "not what feedforward_modules say"),
        ("ia3", {"feedforward_modules": 3}, "by a list or an expression, not 3"),
        ("ia3", {"target_modules": ["k"]}, "target_modules leave out"),
        ("prefix", {"num_virtual_tokens": 3}, "rows, and by its settings 3"),
    ],
)
def test_settings_that_say_otherwise_than_the_tensors(base, tmp_path, kind, changes, what):
    folder = shutil.copytree(HERE / kind, tmp_path / kind)
    base.adapted(folder)
    edit(folder, **changes)
    with pytest.raises(ValueError, match=what):
        base.adapted(folder)


def test_an_adapter_of_other_weights_is_refused(t5, tmp_path):
    adapter = drawn("lora", t5)
    facts = {"base_model_fingerprint": "0" * 64, "base_model": "another"}
    with pytest.raises(ValueError, match=r"trained for another \(weights 000000000000\)"):
        t5.adapted(Adapter("lora", adapter.leaves, facts))
    t5.adapted(Adapter("lora", adapter.leaves, facts), allow_prompt_mismatch=True)
    same = {"base_model_fingerprint": t5.fingerprint}
    adapted = t5.adapted(Adapter("lora", adapter.leaves, same))
    assert adapted.fingerprint == t5.fingerprint


def test_files_that_are_not_whole_are_refused(base, copied):
    (copied / peft.WEIGHTS).write_bytes(b"short")
    with pytest.raises(ValueError, match="corrupt or cut short"):
        base.adapted(copied)
    (copied / peft.WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="has no adapter_model"):
        base.adapted(copied)
    with pytest.raises(FileNotFoundError, match="holds no adapter"):
        base.adapted(copied.parent)


def test_default_rates_are_those_that_the_record_speaks_for():
    """On no task does another rate score more than 3 points higher; a score has an error of 1."""
    file = Path(__file__).parents[1] / "scripts" / "results" / "adapter_rates.json"
    for name, tasks in json.loads(file.read_text())["methods"].items():
        for task, rows in tasks.items():
            scores = {}
            for row in rows:
                scores.setdefault(row["learning_rate"], []).append(row["test"])
            means = {rate: np.mean(found) for rate, found in scores.items()}
            assert means[choice.METHODS[name].RATE] > max(means.values()) - 3, (name, task)
