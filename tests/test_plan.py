"""`prompt-tuning plan`: what it prints and writes, its errors, and real compilations."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import jax
import pytest
from common import slow

from prompt_tuning_jax.commands import cli, plan
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.t5.config import mt5, t5_1_0, t5_1_1
from prompt_tuning_jax.planning import gpus
from prompt_tuning_jax.planning import hardware as targets
from prompt_tuning_jax.planning.step import Lengths
from prompt_tuning_jax.settings.command_line import parse

SCANNED = {"scan_layers": True, "scan_axis": 0}
GPU = ["--gpu", "h100:2"]
SIZES = ["--batch_size=2", "--feature_lengths", "inputs=8", "targets=2", "--prompt_length=4"]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("small", t5_1_1("small", dtype="bfloat16", **SCANNED)),
        ("t5_1_1_xxl", t5_1_1("xxl", dtype="bfloat16", **SCANNED)),
        ("t5_1_0_base", t5_1_0("base", dtype="bfloat16", **SCANNED)),
        ("mt5_xl", mt5("xl", dtype="bfloat16", **SCANNED)),
    ],
)
def test_models_by_name(name, config):
    assert plan.model_config(name) == config


def test_a_model_by_its_directory(model_dir, model):
    config = plan.model_config(str(model_dir))
    assert config.scan_layers
    assert (config.emb_dim, config.vocab_size) == (model.config.emb_dim, model.config.vocab_size)
    assert config.logits_via_embedding == model.config.logits_via_embedding


@pytest.fixture
def cpu_for_gpus(monkeypatch):
    """The CPU's compiler stands in for the GPUs'."""
    monkeypatch.setattr(gpus.Node, "devices", lambda node: jax.devices()[: node.count])
    monkeypatch.delenv(gpus.FRACTION_VARIABLE, raising=False)


@pytest.mark.usefixtures("cpu_for_gpus")
@pytest.mark.parametrize("policy", [["--remat_policy", "full"], slow([])], ids=["one", "any"])
@pytest.mark.slow
def test_a_plan_is_printed_and_written(capsys, tmp_path, model_dir, policy):
    file = tmp_path / "new" / "plan.json"
    asked = ["--model", str(model_dir), *GPU, *SIZES, "--prompt_visibility", "isolated"]
    plan.main([*asked, *policy, "--tries", "2", "--output", str(file)])
    printed = capsys.readouterr().out
    assert "JAX takes of it, 75%" in " ".join(printed.split())
    written = json.loads(file.read_text())
    assert written["asked"]["prompt_visibility"] == "isolated"
    assert len(written["plans"]) == 2
    best = written["plans"][written["recommended"]]
    assert best["seconds"] == min(one["seconds"] for one in written["plans"])
    assert f"mesh '{best['mesh']}', remat '{best['remat']}'" in printed
    for one in written["plans"]:
        parts = ("weights", "arguments", "temporaries", "outputs", "program")
        assert one["needed"] == sum(one[part] for part in parts)
        parts = one["work_seconds"] + one["link_seconds"] - one["hidden_seconds"]
        assert one["seconds"] == parts > 0
        assert 0 <= one["hidden_seconds"] <= one["link_seconds"]
        assert one["available"] == gpus.GPUS["h100"].usable


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_for_gpus")
def test_an_isolated_prompt_costs_less(model_dir):
    def flops(*settings):
        asked = ["--model", str(model_dir), "--gpu", "h100", *SIZES, "--remat_policy", "none"]
        (made,) = plan.plans_of(parse(plan.CONFIG, [*asked, *settings], "", ""))
        return made.flops

    assert flops("--prompt_visibility", "isolated") < flops()


@pytest.mark.usefixtures("cpu_for_gpus")
def test_what_does_not_fit_is_said_with_by_how_much(capsys, monkeypatch, model_dir):
    monkeypatch.setenv(gpus.FRACTION_VARIABLE, "1e-9")
    asked = ["--model", str(model_dir), "--gpu", "h100", *SIZES, "--remat_policy", "full"]
    plan.main(asked)
    printed = capsys.readouterr().out
    assert "Nothing fits: the smallest, mesh 'data:1' with remat 'full', is 0." in printed


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--model", "huge", *GPU], 1, "--model huge: give small, base"),
        (["--model", "small"], 2, "--topology"),
        (["--model", "small", "--topology", "v9:2x2"], 1, "v4, v5e, v5p, v6e, not 'v9'"),
        (["--model", "small", "--topology", "v5e:2x2", *GPU], 2, "Give either --topology or --gpu"),
        (["--model", "small", "--gpu", "tpu"], 1, "a100, h100, h200, l4, not 'tpu'"),
        (["--model", "small", "--gpu", "l4:9"], 1, "give 1 to 8 GPUs, such as l4:8"),
        (["--model", "small", *GPU, "--batch_size", "0"], 2, "must be at least 1"),
        (["--model", "small", *GPU, "--attention_chunk", "0"], 2, "must be at least 1"),
        (["--model", "small", *GPU, "--output", "/dev/null/plan.json"], 1, "/dev/null"),
        (["--model", "small", *GPU, "--output", "."], 1, "name a file"),
    ],
)
def test_a_mistake_ends_in_one_line(capsys, monkeypatch, arguments, code, words):
    monkeypatch.setattr(sys, "argv", ["prompt-tuning"])
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", *arguments])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert stopped.value.code == code


@pytest.mark.parametrize(
    ("hardware", "extra"), [(["--topology", "v5e:2x2"], "plan"), (GPU, "plan_gpu")]
)
def test_without_a_compiler_it_says_what_to_install(capsys, monkeypatch, hardware, extra):
    monkeypatch.setattr(sys, "argv", ["prompt-tuning"])
    found = importlib.util.find_spec
    compilers = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in compilers else found(name, *a)
    )
    with pytest.raises(SystemExit):
        cli.main(["plan", "--model", "small", *hardware])
    error = capsys.readouterr().err
    assert f"pip install 'prompt-tuning-jax[{extra}]'" in error
    assert error.count("\n") == 1


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="need libtpu: pip install '.[plan]'"
)


@needs_libtpu
def test_devices_of_slices_are_chips():
    for name in ("v5e:1x1", "v5e:2x4", "v4:2x2x4", "v5p:2x2x1", "v6e:4x4"):
        target = targets.parse_slice(name)
        assert len(target.devices()) == math.prod(target.sides)
    assert "ALLOW_MULTIPLE_LIBTPU_LOAD" not in os.environ
    with pytest.raises(ValueError, match="libtpu cannot compile for v5e:3x5"):
        targets.parse_slice("v5e:3x5").devices()


@needs_libtpu
def test_a_mesh_may_split_an_axis_of_the_slice():
    target = targets.parse_slice("v5e:4x4")
    mesh = sharding.make_mesh("data:8,model:2", target.devices())
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "model": 2}
    assert len({device.id for device in mesh.devices.flat}) == 16


@pytest.fixture(scope="module")
def narrow_model(tmp_path_factory):
    """A model whose weights are large beside its activations."""
    folder = tmp_path_factory.mktemp("narrow")
    shape = {
        "model_type": "t5", "vocab_size": 8192, "d_model": 512, "d_kv": 64, "d_ff": 2048,
        "num_heads": 8, "num_layers": 2, "feed_forward_proj": "gated-gelu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape))
    return str(folder)


@pytest.mark.slow
@needs_libtpu
def test_a_step_compiled_for_tpus_has_no_gradients_of_frozen_weights(narrow_model):
    config, target = plan.model_config(narrow_model), targets.parse_slice("v5e:2x2")
    lengths = Lengths(batch=4, inputs=16, targets=2, prompt=4)
    (made,) = plan.plan_target(config, lengths, target, mesh="fsdp:4", remat="none")
    assert made.fits
    assert made.cycles > 0
    assert made.collectives["all-gather"].count > 0
    # In place: what comes back is only the metrics; nothing held is as large as the weights.
    assert made.outputs < 10_000
    assert made.arguments < made.weights / 10
    assert made.temporaries < made.weights
    # A gradient of the weights would add half as much again.
    assert made.useful_flops < made.flops < 1.4 * made.useful_flops


@pytest.mark.slow
@needs_libtpu
def test_what_does_not_fit_a_tpu_is_a_result(narrow_model, tmp_path):
    file = tmp_path / "plan.json"
    sizes = ["--batch_size=256", "--feature_lengths", "inputs=2048", "targets=8", "--mesh=data:1"]
    sizes += ["--remat_policy=none"]
    arguments = ["--topology", "v5e:1x1", *sizes, "--output", str(file)]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "prompt_tuning_jax",
            "plan",
            "--model",
            narrow_model,
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Nothing fits" in done.stdout
    assert done.stderr == ""
    (one,) = json.loads(file.read_text())["plans"]
    assert one["needed"] > one["available"]
    assert not one["fits"]
