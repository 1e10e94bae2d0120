"""Plans of T5Gemmas: published shapes, what their two stacks cost, a plan from end to end."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import pytest
from common import GOLDENS

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.checkpoints.huggingface import t5gemma
from prompt_tuning_jax.commands import plan
from prompt_tuning_jax.models.t5gemma import T5GemmaConfig
from prompt_tuning_jax.models.t5gemma.weights import shapes
from prompt_tuning_jax.params import flatten
from prompt_tuning_jax.planning import arithmetic, gpus, meshes, step
from prompt_tuning_jax.planning.models import model_config

MODEL = GOLDENS / "t5gemma"
LENGTHS = step.Lengths(batch=4, inputs=12, targets=3, prompt=4)
# As the headers of the published files say; of l-l and 2b-2b, by the same arithmetic.
WEIGHTS = {
    "t5gemma-s-s": 312_517_632,
    "t5gemma-b-b": 591_490_560,
    "t5gemma-l-l": 1_241_761_792,
    "t5gemma-ml-ml": 2_200_345_344,
    "t5gemma-xl-xl": 3_766_980_608,
    "t5gemma-2b-2b": 5_596_853_760,
    "t5gemma-9b-2b": 12_292_375_296,
    "t5gemma-9b-9b": 20_333_401_088,
}


def config(**changes) -> T5GemmaConfig:
    return dataclasses.replace(model_config(MODEL), **changes)


def tied() -> T5GemmaConfig:
    """With the decoder's table for an output layer, as all published ones."""
    decoder = dataclasses.replace(config().decoder, logits_via_embedding=True)
    return config(decoder=decoder)


@pytest.mark.parametrize("name", t5gemma.PUBLISHED)
def test_a_published_model_has_the_published_number_of_weights(name, tmp_path):
    found = t5gemma.published_config(name)
    assert sum(map(math.prod, shapes(found).values())) == WEIGHTS[name]
    file = tmp_path / "config.json"
    file.write_text(t5gemma.config_json(found, "bfloat16"))
    assert t5gemma.read_config(file) == found


def test_published_stacks_are_gemma_2s():
    found = t5gemma.published_config("t5gemma-9b-2b", jnp.bfloat16)
    assert (found.dtype, found.start_id, found.logits_via_embedding) == (jnp.bfloat16, 2, True)
    for stack, layers in ((found.encoder, 42), (found.decoder, 26)):
        assert [layer.window for layer in stack.layers] == [4096, None] * (layers // 2)
        assert (stack.score_scale, stack.score_cap, stack.logit_cap) == (1 / 16, 50.0, 30.0)
    assert t5gemma.published_config("t5gemma-s-s").encoder.score_scale == 1 / 8
    with pytest.raises(ValueError, match=r"no 't5gemma-2b-9b' here: .*t5gemma-9b-9b\."):
        t5gemma.published_config("t5gemma-2b-9b")


def test_models_by_name_and_by_directory():
    named = t5gemma.published_config("t5gemma-b-b", jnp.bfloat16)
    assert model_config("t5gemma-b-b") == dataclasses.replace(named, scan_layers=True)
    loaded = huggingface.load_lazily(MODEL)[0]
    asked = {"dtype": jnp.bfloat16, "scan_layers": True, "eos_id": loaded.eos_id}
    assert model_config(MODEL) == dataclasses.replace(loaded, **asked)
    with pytest.raises(ValueError, match=r"^model t5gemma-c-c: .*gpt2-xl, t5gemma-s-s, .*-9b; or"):
        model_config("t5gemma-c-c")


@pytest.mark.parametrize("int8", [False, True])
def test_shapes_are_those_of_a_loaded_model(int8):
    lengths = dataclasses.replace(LENGTHS, int8=int8)
    model = pt.load_model(MODEL, dtype="int8" if int8 else "float32").scanned()
    planned = step.abstract_params(config(dtype=jnp.float32), lengths)
    there = flatten(model.params)
    assert {k: (x.shape, x.dtype) for k, x in planned.items()} == {
        k: (x.shape, x.dtype) for k, x in there.items()
    }


@pytest.mark.parametrize("make", [config, tied])
def test_useful_flops_are_of_each_stacks_tokens_and_the_targets_logits(make):
    """Whichever layer makes the logits, it is as wide as the decoder."""
    # Widths, heads' features of queries and of keys, and the MLP's, of both stacks.
    (D, J, GK, F), (E, K, KG, M), V = (16, 24, 12, 24), (12, 24, 8, 20), 432
    encoder = 3 * (2 * D * J + 2 * D * GK + 3 * D * F)
    decoder = 2 * (2 * E * K + 2 * E * KG + 3 * E * M + 2 * E * K + 2 * D * KG)
    expected = 4 * 4 * ((12 + 4) * encoder + 3 * decoder + 3 * E * V)
    for scan in (True, False):
        one = dataclasses.replace(make(), scan_layers=scan)
        sizes = step.weight_sizes(one, LENGTHS)
        assert arithmetic.useful_flops(sizes, one, LENGTHS) == expected


def test_heads_and_layers_are_of_both_stacks():
    assert meshes.heads_of(config()) == 1  # of 2 and 1
    assert meshes.heads_of(model_config("t5gemma-9b-2b")) == 4  # of 8 and 4
    assert meshes.layers_of(config(), LENGTHS) == 3 + 2
    assert LENGTHS.row(config()) == 16


def test_longer_inputs_cost_what_reads_them():
    """The encoder, keys and values of its output in the decoder, and attention to it.

    Forward and backward cost the same, for a frozen weight has no gradient of its own; attention's
    two products have two each; and the prompt's gradient is gathered from its rows by a product.
    """
    (D, J, GK, F), (K, KG), B, P = (16, 24, 12, 24), (24, 8), 4, 4
    encoder = 3 * (2 * D * J + 2 * D * GK + 3 * D * F)
    short, long, targets = 12 + P, 24 + P, 3
    weights = 4 * B * (long - short) * (encoder + 2 * 2 * D * KG)
    scores = 3 * J * (long**2 - short**2) + 2 * K * targets * (long - short)
    traced = [
        meshes.traced_work(config(), dataclasses.replace(LENGTHS, inputs=n))[0].flops
        for n in (12, 24)
    ]
    gathered = 2 * B * P * (long - short) * D
    assert traced[1] - traced[0] == weights + 3 * 2 * 2 * B * scores + gathered


@pytest.fixture
def cpu_for_gpus(monkeypatch):
    """The CPU's compiler stands in for the GPUs'."""
    monkeypatch.setattr(gpus.Node, "devices", lambda node: jax.devices()[: node.count])
    monkeypatch.delenv(gpus.FRACTION_VARIABLE, raising=False)


@pytest.mark.usefixtures("cpu_for_gpus")
@pytest.mark.slow  # the way is every family's, and test_planning_causal goes it
@pytest.mark.parametrize("mesh", ["fsdp:2", "data:2", "fsdp:2 int8"])
def test_a_plan_from_end_to_end(mesh, tmp_path, capsys):
    mesh, _, dtype = mesh.partition(" ")
    file = tmp_path / "plan.json"
    arguments = ["--model", str(MODEL), "--gpu", "h100:2", "--batch_size=2", "--mesh", mesh]
    arguments += ["--feature_lengths", "inputs=8", "targets=2", "--prompt_length=4"]
    arguments += ["--model_dtype", dtype or "bfloat16"]
    plan.main([*arguments, "--remat_policy", "full", "--output", str(file)])
    assert f"mesh '{mesh}'" in capsys.readouterr().out
    (made,) = json.loads(file.read_text())["plans"]
    assert made["fits"]
    assert made["useful_flops"] < made["flops"]
    assert made["outputs"] < 10_000  # in place: what comes back is only the metrics
    lengths = step.Lengths(batch=2, inputs=8, targets=2, prompt=4, int8=bool(dtype))
    whole = step.held(config(), lengths).weights
    copies = 2 if mesh == "data:2" else 1
    assert whole * copies / 2 <= made["weights"] < 1.3 * whole * copies / 2
