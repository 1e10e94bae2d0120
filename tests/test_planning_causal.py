"""Plans of causal models: published shapes, what a row costs, meshes, a plan from end to end."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import pytest
from causal_models import MODELS
from common import GOLDEN_CONFIG, slow

import prompt_tuning_jax as pt
from prompt_tuning_jax import optim
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.checkpoints.huggingface.causal import (
    PUBLISHED,
    config_json,
    published_config,
    read_config,
)
from prompt_tuning_jax.commands import plan
from prompt_tuning_jax.models.causal import CausalConfig, LayerKind, Rotary
from prompt_tuning_jax.models.causal.weights import shapes
from prompt_tuning_jax.params import flatten
from prompt_tuning_jax.planning import arithmetic, fused_kernels, gpus, meshes, step
from prompt_tuning_jax.planning.hardware import CHIPS
from prompt_tuning_jax.planning.models import model_config
from prompt_tuning_jax.settings.command_line import parse

LENGTHS = step.Lengths(batch=4, inputs=12, targets=3, prompt=4)
ROW = 12 + 4 + 3
# As their pages say; a table that the output layer shares counts once.
WEIGHTS = {
    "llama2-7b": 6_738_415_616,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "smollm3-3b": 3_075_098_624,
    "mistral-7b": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
}


def small(**changes) -> CausalConfig:
    shape = {
        "architecture": "llama", "vocab_size": 64, "emb_dim": 16, "num_heads": 4,
        "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 32, "score_scale": 8**-0.5,
        "layers": (LayerKind(rotary=Rotary(10000.0)),) * 3, "scan_layers": True,
    }  # fmt: skip
    return CausalConfig(**(shape | changes))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_the_published_number_of_weights(name, tmp_path):
    config = published_config(name)
    assert sum(map(math.prod, shapes(config).values())) == WEIGHTS[name]
    file = tmp_path / "config.json"
    file.write_text(config_json(config, "bfloat16"))
    assert read_config(file) == config


def test_published_models_differ_in_what_they_differ_in():
    first, *_, last = published_config("gemma3-1b").layers
    assert (first.window, first.rotary.theta) == (512, 1e4)
    windows = [layer.window for layer in published_config("gemma3-1b").layers]
    assert windows == [512 if (i + 1) % 6 else None for i in range(26)]
    assert last.window == 512
    assert [layer.window for layer in published_config("gemma2-2b").layers] == [4096, None] * 13
    assert not any(layer.window for layer in published_config("mistral-7b").layers)
    no_rotary = [layer.rotary is None for layer in published_config("smollm3-3b").layers]
    assert no_rotary == [False, False, False, True] * 9
    llama = published_config("llama3.2-1b")
    assert llama.layers[0].rotary == Rotary(500000.0, "llama3", 32.0, 1.0, 4.0, 8192)
    assert (llama.eos_id, llama.pad_id) == (128001, llama.vocab_size)
    assert published_config("qwen2.5-7b").qkv_bias
    lengths = {n: published_config(f"qwen{n}").max_length for n in ("2.5-0.5b", "2.5-7b", "3-8b")}
    assert lengths == {"2.5-0.5b": 32768, "2.5-7b": 131072, "3-8b": 32768}
    assert published_config("qwen3-8b").qk_norm
    assert not published_config("qwen3-8b").logits_via_embedding
    assert published_config("gemma2-27b").score_scale == 144**-0.5


def test_models_by_name_and_by_directory():
    named = published_config("llama3.2-3b", jnp.bfloat16)
    assert model_config("llama3.2-3b") == dataclasses.replace(named, scan_layers=True)
    for path in MODELS.values():
        loaded = huggingface.load_lazily(path)[0]
        asked = {"dtype": jnp.bfloat16, "scan_layers": True, "eos_id": loaded.eos_id}
        assert model_config(path) == dataclasses.replace(loaded, **asked)
    with pytest.raises(ValueError, match=r"^model llama9: .*mt5_; llama2-7b, .*gpt2-xl.*; or"):
        model_config("llama9")


@pytest.mark.parametrize("changes", [{}, {"logits_via_embedding": True}, {"joined_qkv": True}])
def test_useful_flops_are_of_a_rows_tokens_and_the_targets_logits(changes):
    """The last target is predicted, and read by no layer."""
    if "joined_qkv" in changes:
        changes = changes | {"num_kv_heads": 4}
    config = small(**changes)
    D, J, GK, F, V = 16, 32, 8 * config.num_kv_heads, 32, 64
    layers = 3 * (2 * D * J + 2 * D * GK + 3 * D * F)
    expected = 4 * 4 * ((ROW - 1) * layers + 3 * D * V)
    sizes = step.weight_sizes(config, LENGTHS)
    assert arithmetic.useful_flops(sizes, config, LENGTHS) == expected
    one = dataclasses.replace(config, scan_layers=False)
    assert arithmetic.useful_flops(step.weight_sizes(one, LENGTHS), one, LENGTHS) == expected


def test_the_traced_step_multiplies_rows_and_attends_with_groups():
    """Every product of a dense step: weights with whole rows, and queries with the keys of theirs.

    Forward and backward cost the same, for a frozen weight has no gradient of its own; attention's
    two products have two each; and the prompt's gradient is gathered from its rows by a product.
    The prompt goes through the layers once, and not in every row.
    """
    D, J, GK, F, V, P = 16, 32, 16, 32, 64, LENGTHS.prompt
    text = ROW - P - 1  # the last target is only predicted
    layers = 3 * (2 * D * J + 2 * D * GK + 3 * D * F)
    weights = 4 * ((4 * text + P) * layers + 4 * 3 * D * V)
    seen = 4 * text * (P + text) + P * P
    attention = 3 * 3 * 2 * 2 * 4 * seen * 8  # thrice the forward pass, in 3 layers
    prompt = 2 * P * P * D
    work = meshes.traced_work(small(scan_layers=True), LENGTHS)[0].flops
    assert work == weights + attention + prompt


def test_layers_apart_do_not_compute_what_nobody_reads():
    """The last layer's results but for targets, and gradients of the text."""
    scanned, apart = (
        meshes.traced_work(small(scan_layers=scan), LENGTHS)[0].flops for scan in (True, False)
    )
    assert 0.6 * scanned < apart < 0.9 * scanned


def test_frozen_weights_have_no_gradients():
    config = small()
    useful = arithmetic.useful_flops(step.weight_sizes(config, LENGTHS), config, LENGTHS)
    tuned = step.traced_step(config, LENGTHS, rules=optim.model_rules())
    prompt = meshes.traced_work(config, LENGTHS)[0].flops
    model = arithmetic.work_of(tuned.jaxpr.jaxpr).flops
    assert prompt + 0.35 * useful < model < prompt + 0.6 * useful


@pytest.mark.parametrize("int8", [False, True])
def test_shapes_are_those_of_a_loaded_model(int8):
    path = MODELS["qwen3"]
    lengths = dataclasses.replace(LENGTHS, int8=int8)
    model = pt.load_model(path, dtype="int8" if int8 else "float32").scanned()
    config = dataclasses.replace(model_config(path), dtype=jnp.float32)
    planned = step.abstract_params(config, lengths)
    there = flatten(model.params)
    assert planned.keys() == there.keys()
    assert {k: (x.shape, x.dtype) for k, x in planned.items()} == {
        k: (x.shape, x.dtype) for k, x in there.items()
    }


def test_heads_of_keys_are_split_and_all_layers_count():
    config = small()
    assert meshes.heads_of(config) == 2
    assert meshes.heads_of(model_config("xl")) == 32
    assert {one.model for one in meshes.meshes(8, 8, meshes.heads_of(config))} == {1, 2}
    assert meshes.layers_of(config, LENGTHS) == 3
    assert meshes.layers_of(GOLDEN_CONFIG, LENGTHS) == 4
    assert LENGTHS.row(config) == ROW
    assert LENGTHS.row(GOLDEN_CONFIG) == 16


def test_guesses_obey_the_obvious():
    def guess(**changes):
        return meshes.guess(deep, LENGTHS, CHIPS["v5e"], meshes.Option(**changes))

    deep = small(layers=small().layers * 4)

    assert guess(data=4).memory < guess(data=2).memory
    assert guess(fsdp=2).memory < guess(data=2).memory
    assert guess(fsdp=2).seconds > guess(data=2).seconds
    assert guess(data=2, model=2).seconds > guess(data=4).seconds
    assert guess(data=2, remat="full").seconds > guess(data=2).seconds


@pytest.mark.parametrize("ends", ["", "Backward"])
def test_fused_attention_of_grouped_queries_has_the_flops_of_its_queries(ends):
    call = f'custom_call_target="__cudnn$fmhaScaleBiasSoftmax{ends}"'
    grouped = fused_kernels.attention_flops(call, [(2, 8, 16, 64), (2, 2, 32, 64)])
    assert grouped == (5 if ends else 2) * 2 * 2 * 8 * 16 * 32 * 64


@pytest.fixture
def cpu_for_gpus(monkeypatch):
    """The CPU's compiler stands in for the GPUs'."""
    monkeypatch.setattr(gpus.Node, "devices", lambda node: jax.devices()[: node.count])
    monkeypatch.delenv(gpus.FRACTION_VARIABLE, raising=False)


@pytest.mark.usefixtures("cpu_for_gpus")
@pytest.mark.parametrize(
    "mesh", ["fsdp:2", slow("data:1,model:2"), slow("data:2"), slow("model:2 int8")]
)
@pytest.mark.slow
def test_a_plan_from_end_to_end(mesh, tmp_path, capsys):
    mesh, _, dtype = mesh.partition(" ")
    file = tmp_path / "plan.json"
    arguments = ["--model", str(MODELS["qwen3"]), "--gpu", "h100:2", "--batch_size=2", "--mesh"]
    arguments += [mesh, "--feature_lengths", "inputs=8", "targets=2", "--prompt_length=4"]
    arguments += ["--model_dtype", dtype or "bfloat16"]
    plan.main([*arguments, "--remat_policy", "full", "--output", str(file)])
    assert f"mesh '{mesh.removeprefix('data:1,')}'" in capsys.readouterr().out
    (made,) = json.loads(file.read_text())["plans"]
    assert made["fits"]
    assert made["useful_flops"] < made["flops"]
    assert made["outputs"] < 10_000  # in place: what comes back is only the metrics
    config = model_config(MODELS["qwen3"])
    lengths = step.Lengths(batch=2, inputs=8, targets=2, prompt=4, int8=bool(dtype))
    whole = step.held(config, lengths).weights
    copies = 2 if mesh == "data:2" else 1
    assert whole * copies / 2 <= made["weights"] < 1.2 * whole * copies / 2


@pytest.mark.usefixtures("cpu_for_gpus")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--prompt_visibility", "self"], "self is not for causal models"),
    ],
)
def test_what_a_causal_model_cannot_do_is_refused_as_in_training(settings, words):
    asked = ["--model", "smollm2-135m", "--gpu", "h100", *settings]
    with pytest.raises(ValueError, match=words):
        plan.plans_of(parse(plan.CONFIG, asked, "", ""))
