"""Plans for GPUs: what a GPU's program says, how long it takes, and real compilations."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from jax.experimental import topologies

from prompt_tuning_jax.planning import gpus, hlo, table
from prompt_tuning_jax.planning import meshes as options
from prompt_tuning_jax.planning.hardware import GIB
from prompt_tuning_jax.planning.hlo import Collective, Kernel
from prompt_tuning_jax.planning.models import model_config
from prompt_tuning_jax.planning.step import Lengths, held

STEPS = Path(__file__).resolve().parents[1] / "scripts" / "results" / "gpu_times.json"
# As XLA writes it for GPUs: a loop of 3 rounds, in each of which a layer's weights are gathered and
# taken times x, and the product goes into its place of a stack, beside other work.
GPU_TEXT = """HloModule jit_step, is_scheduled=true
%fused_dot (p.0: bf16[8,16], p.1: bf16[16,32]) -> bf16[8,32] {
  %p.0 = bf16[8,16]{1,0} parameter(0), metadata={scheduling_name="p.0"}
  %p.1 = bf16[16,32]{1,0} parameter(1), metadata={scheduling_name="p.1"}
  %dot.1 = f32[8,32]{1,0} dot(%p.0, %p.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %convert.1 = bf16[8,32]{1,0} convert(%dot.1)
}

%fused_update (q.0: bf16[3,8,32], q.1: s32[], q.2: bf16[8,32]) -> bf16[3,8,32] {
  %q.0 = bf16[3,8,32]{2,1,0} parameter(0)
  %q.2 = bf16[8,32]{1,0} parameter(2)
  %bitcast.1 = bf16[1,8,32]{2,1,0} bitcast(%q.2)
  %q.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %update = bf16[3,8,32]{2,1,0} dynamic-update-slice(%q.0, %bitcast.1, %q.1, %zero, %zero)
}

%condition (c: (s32[], bf16[8,16], bf16[8,32], bf16[3,8,32])) -> pred[] {
  %c = (s32[], bf16[8,16]{1,0}, bf16[8,32]{1,0}, bf16[3,8,32]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%c), index=0
  %three = s32[] constant(3)
  ROOT %less = pred[] compare(%i.1, %three), direction=LT
}

%body (b: (s32[], bf16[8,16], bf16[8,32], bf16[3,8,32])) -> (s32[], bf16[8,16], bf16[8,32], \
bf16[3,8,32]) {
  %b = (s32[], bf16[8,16]{1,0}, bf16[8,32]{1,0}, bf16[3,8,32]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  %x = bf16[8,16]{1,0} get-tuple-element(%b), index=1
  %part = bf16[8,32]{1,0} get-tuple-element(%b), index=2
  %stack = bf16[3,8,32]{2,1,0} get-tuple-element(%b), index=3
  %gather = ((bf16[8,32]{1,0}), bf16[16,32]{1,0}) all-gather-start(%part), channel_id=2, \
replica_groups=mesh['data'=1,'fsdp'=2,'model'=1] {'fsdp'}, dimensions={0}
  %w = bf16[16,32]{1,0} all-gather-done(%gather)
  %gemm = bf16[8,32]{1,0} fusion(%x, %w), kind=kCustom, calls=%fused_dot, \
backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}}
  %start = ((bf16[3,8,32]{2,1,0}, s32[], bf16[8,32]{1,0}), bf16[3,8,32]{2,1,0}, u32[]) \
fusion-start(%stack, %i, %gemm), kind=kLoop, calls=%fused_update
  %done = bf16[3,8,32]{2,1,0} fusion-done(%start)
  ROOT %t = (s32[], bf16[8,16]{1,0}, bf16[8,32]{1,0}, bf16[3,8,32]{2,1,0}) \
tuple(%i, %x, %part, %done)
}

ENTRY %main (a: (s32[], bf16[8,16], bf16[8,32], bf16[3,8,32])) -> f32[16,16] {
  %a = (s32[], bf16[8,16]{1,0}, bf16[8,32]{1,0}, bf16[3,8,32]{2,1,0}) parameter(0)
  %loop = (s32[], bf16[8,16]{1,0}, bf16[8,32]{1,0}, bf16[3,8,32]{2,1,0}) while(%a), \
condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %y = bf16[8,16]{1,0} get-tuple-element(%loop), index=1
  %called = (f32[16,16]{1,0}, s8[64]{0}) custom-call(%y, %y), \
custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"alpha_real":1,\
"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"],"rhs_contracting_dimensions":["0"]}}}
  %z = f32[16,16]{1,0} get-tuple-element(%called), index=0
  %reduce = ((f32[16,16]{1,0}), f32[16,16]{1,0}) all-reduce-start(%z), channel_id=3, to_apply=%sum
  ROOT %r = f32[16,16]{1,0} all-reduce-done(%reduce)
}
"""


def test_a_gpu_program_says_what_is_moved_between_gpus():
    # The larger of what a GPU gives and gets: 16 x 32 in bfloat16, three times; 16 x 16 in float32.
    assert hlo.Program(GPU_TEXT).collectives() == {
        "all-reduce": Collective(1, 1024),
        "all-gather": Collective(3, 3 * 1024),
    }


def test_kernels_are_what_takes_time_on_a_gpu():
    """Three in all: a product with what is fused into it, an update in place, a library's product.

    Of the update only the part is read and written, where it starts, with its index of 4 bytes.
    """
    gemm = Kernel(3, flops=2 * 8 * 32 * 16, traffic=2 * (8 * 16 + 16 * 32 + 8 * 32))
    update = Kernel(3, flops=0, traffic=2 * (8 * 32 + 8 * 32) + 4)
    library = Kernel(1, flops=2 * 16 * 16 * 8, traffic=2 * 2 * 8 * 16 + 4 * 16 * 16 + 64)
    assert set(hlo.Program(GPU_TEXT).kernels()) == {gemm, update, library}


def test_a_kernel_takes_the_longer_of_its_products_and_its_traffic():
    gpu = gpus.GPUS["h100"]
    second = Kernel(2, flops=int(gpu.flops * gpu.MATRIX_SHARE), traffic=1000)
    half = Kernel(1, flops=1000, traffic=int(gpu.bandwidth * gpu.MEMORY_SHARE / 2))
    assert gpu.seconds([second, half]) == pytest.approx(2.5 + 3 * gpu.LAUNCH, abs=1e-9)


@pytest.mark.parametrize("step", json.loads(STEPS.read_text()), ids=lambda step: step["name"])
def test_the_plan_of_a_measured_step_is_near(step):
    """To 5% of its time, as the notes of a plan say, and to 4% of its memory."""
    kernels = [Kernel(times, *sizes) for *sizes, times in step["kernels"]]
    assert gpus.GPUS[step["gpu"]].seconds(kernels) == pytest.approx(step["seconds"], rel=0.05)
    if step["gib"]:
        assert step["needed"] / GIB == pytest.approx(step["gib"], rel=0.04)
    assert "right to 5% for those" in table.GPU_NOTES


def test_fused_attention_has_the_flops_of_its_shapes():
    heads = "bf16[2,3,8,64]", "bf16[2,3,16,64]"
    line = "  %{} = bf16[2,3,8,64] custom-call(%q, %k, %k), custom_call_target={}"
    calls = (
        line.format("a", '"__cudnn$fmhaScaleBiasSoftmax"'),
        line.format("b", '"__cudnn$fmhaScaleBiasSoftmaxBackward"'),
        line.format("c", '"tpu_custom_call", config={"cost_estimate":{"flops":"77"}}'),
        line.format("d", '"another"'),
    )
    parameters = (
        f"  %{name} = {shape} parameter({i})"
        for i, (name, shape) in enumerate(zip("qk", heads, strict=True))
    )
    text = "\n".join(["ENTRY %main (q: f, k: f) -> f {", *parameters, *calls, "}"])
    found = [kernel.attention_flops for kernel in hlo.Program(text).kernels()]
    products = 2 * 2 * 3 * 8 * 16 * 64
    assert found == [2 * products, 5 * products, 77, 0]


def test_of_two_branches_one_is_executed():
    text = """
%plain (p: f32[8]) -> f32[8] {
  %p = f32[8] parameter(0)
  ROOT %slow = f32[8] custom-call(%p), custom_call_target="slow"
}

%taken (p: f32[8]) -> f32[8] {
  %p = f32[8] parameter(0)
  ROOT %fast = f32[8] custom-call(%p), custom_call_target="fast"
}

ENTRY %main (i: s32[], x: f32[8]) -> f32[8] {
  %i = s32[] parameter(0)
  %x = f32[8] parameter(1)
  ROOT %c = f32[8] conditional(%i, %x, %x), branch_computations={%plain, %taken}
}
"""
    names = {instruction.name for _, instruction, _ in hlo.Program(text).executed()}
    assert "fast" in names
    assert "slow" not in names


@pytest.mark.parametrize(
    ("asked", "name", "count"), [("h100", "h100", 1), ("a100:8", "a100", 8), ("l4:1", "l4", 1)]
)
def test_gpus_by_name(asked, name, count):
    assert gpus.parse_node(asked) == gpus.Node(gpus.GPUS[name], count)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("v9:1", "there is a100_40gb, a100, h100, h200, l4, not 'v9'"),
        ("h100:16", "give 1 to 8 GPUs, such as h100:8"),
        ("h100:0", "1 to 8"),
        ("h100:2x4", "1 to 8"),
        ("", "not ''"),
    ],
)
def test_unknown_gpus_are_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        gpus.parse_node(asked)


def test_a_program_has_as_much_memory_as_jax_takes(monkeypatch):
    h100 = gpus.GPUS["h100"]
    monkeypatch.delenv(gpus.FRACTION_VARIABLE, raising=False)
    assert h100.usable == int(0.75 * h100.memory)
    monkeypatch.setenv(gpus.FRACTION_VARIABLE, ".9")
    assert h100.usable == int(0.9 * h100.memory)


@pytest.mark.slow
def test_a_larger_model_than_a_gpu_is_split_over_several():
    """The weights of XXL in bfloat16 take 20.7 GiB: too much for an L4, not for an H100."""
    config, lengths = model_config("xxl"), Lengths(batch=8, inputs=64)
    splits = options.meshes(8, lengths.batch, config.num_heads)
    first = {
        name: options.likeliest(config, lengths, gpus.GPUS[name], splits, ["minimal"])[0]
        for name in ("l4", "h100")
    }
    assert first["h100"] == options.Option(data=8, remat="minimal")
    assert first["l4"].fsdp * first["l4"].model > 1


def test_without_the_wheels_it_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'prompt-tuning-jax\[plan_gpu\]'"):
        gpus.parse_node("h100").devices()


def test_where_the_wheels_ask_for_a_gpu_it_says_what_to_set(monkeypatch):
    def refuse(**settings):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(ImportError, match="set JAX_PLATFORMS=cpu before Python starts"):
        gpus.parse_node("h100").devices()


@pytest.mark.slow
@pytest.mark.skipif(
    not any(importlib.util.find_spec(name.replace("-", "_")) for name in gpus.PLUGINS),
    reason="need JAX's CUDA wheels: pip install '.[plan_gpu]'",
)
@pytest.mark.parametrize(("asked", "mesh"), [("h100:1", "data:1"), ("h100:8", "fsdp:8")])
def test_a_step_compiled_for_gpus_has_no_gradients_of_frozen_weights(tmp_path, asked, mesh):
    """In a process of its own: JAX starts its plugin for CUDA once, for a GPU or without one."""
    # The weights are large beside the activations.
    shape = {
        "model_type": "t5", "vocab_size": 8192, "d_model": 512, "d_kv": 64, "d_ff": 2048,
        "num_heads": 8, "num_layers": 2, "feed_forward_proj": "gated-gelu",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(shape))
    line = f"plan --model . --gpu {asked} --mesh {mesh} --remat_policy none --output plan.json "
    line += "--batch_size 8 --feature_lengths inputs=16 targets=2 --prompt_length 4"
    program = [sys.executable, "-m", "prompt_tuning_jax"]
    subprocess.run([*program, *line.split()], cwd=tmp_path, check=True)
    (made,) = json.loads((tmp_path / "plan.json").read_text())["plans"]
    assert made["fits"]
    # In place: what comes back is only the metrics.
    assert made["outputs"] < 10_000
    lengths = Lengths(batch=8, inputs=16, targets=2, prompt=4)
    whole = held(model_config(str(tmp_path)), lengths).weights
    assert whole / made["devices"] <= made["weights"] < 1.1 * whole / made["devices"]
    assert made["arguments"] < made["weights"]
    # A gradient of the weights would add half as much again.
    assert made["useful_flops"] < made["flops"] < 1.4 * made["useful_flops"]
    assert made["cycles"] == 0 < made["work_seconds"]
    if made["devices"] == 1:
        assert made["collectives"] == {}
    else:  # what each lacks of the weights comes at least once
        assert 0.9 * whole < made["collectives"]["all-gather"]["size"] < 3 * whole
        assert made["link_seconds"] > 0
