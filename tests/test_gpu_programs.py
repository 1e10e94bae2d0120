"""What the GPU's own compiler makes of the training step; nothing runs."""

import dataclasses
import functools
import importlib.util
import re

import jax
import pytest

from prompt_tuning_jax.checkpoints.huggingface.causal import published_config
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.planning import gpus
from prompt_tuning_jax.planning.hlo import Program
from prompt_tuning_jax.planning.step import Lengths, compile_step

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(importlib.util.find_spec(name.replace("-", "_")) for name in gpus.PLUGINS),
        reason="need JAX's plugin for CUDA: pip install '.[plan_gpu]'",
    ),
]
# No product of these is another one of them: a shape says what an array is.
B, T, P, H, K, D, F = 3, 156, 100, 8, 64, 640, 1408
LENGTHS = Lengths(batch=B, inputs=T, targets=8, prompt=P)
FORWARD, BACKWARD = ('"__cudnn$fmhaScaleBiasSoftmax"', '"__cudnn$fmhaScaleBiasSoftmaxBackward"')
# A row's keys are told by their number or by a mask; the device decides, and both are there.
WAYS = 2


@functools.cache
def compiled(layers, **settings):
    config = T5Config(
        vocab_size=512,
        emb_dim=D,
        num_heads=H,
        head_dim=K,
        mlp_dim=F,
        num_encoder_layers=layers,
        num_decoder_layers=1,
        dtype="bfloat16",
        **settings,
    )
    mesh = sharding.make_mesh("data:1", gpus.parse_node("h100").devices())
    return compile_step(config, LENGTHS, mesh)


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    jax.config.update("jax_platforms", "cpu")


@pytest.mark.parametrize(("policy", "times"), [("none", 1), ("minimal", 1), ("full", 2)])
def test_attention_is_fused_and_computed_again_only_where_everything_is(policy, times):
    text = compiled(2, remat_policy=policy).text
    assert text.count(FORWARD) == 2 * WAYS * times
    assert text.count(BACKWARD) == 2 * WAYS
    assert f"f32[{B},{H},{T + P},{T + P}]" not in text


def test_a_layer_takes_few_kernels():
    """Both ways: 7 products forward and as many backward, attention, norms, gate, dropout, mask."""
    two, three = (
        sum(kernel.times for kernel in Program(compiled(layers).text).kernels())
        for layers in (2, 3)
    )
    assert 16 <= three - two <= 36


def test_a_layer_keeps_little():
    """In units of its rows' states, in bfloat16: products, and the inputs of norms and gate."""
    two, three = (compiled(layers) for layers in (2, 3))
    kept = three.memory.temporaries - two.memory.temporaries
    states = 2 * B * (T + P) * D
    assert kept < 16 * states
    minimal = compiled(3, remat_policy="minimal").memory.temporaries
    assert minimal < three.memory.temporaries


def test_stacked_weights_are_not_copied():
    text = compiled(3, scan_layers=True, scan_axis=0, remat_policy="minimal").text
    weights = {(3, D, H, K), (3, D, H * K), (3, H, K, D), (3, H * K, D), (3, D, F), (3, F, D)}
    made = re.findall(r"= bf16\[([\d,]+)\]\{[^}]*\} (?!parameter|get-tuple|bitcast)\S+\(", text)
    assert made
    assert not weights & {tuple(map(int, dims.split(","))) for dims in made}


@pytest.mark.parametrize(("name", "is_fused"), [("llama3.2-1b", True), ("gemma2-2b", False)])
def test_a_causal_models_attention_is_fused_unless_scores_are_capped(name, is_fused):
    published = published_config(name)
    config = dataclasses.replace(
        published, vocab_size=512, layers=published.layers[:2], dtype="bfloat16"
    )
    mesh = sharding.make_mesh("data:1", gpus.parse_node("h100").devices())
    text = compile_step(config, LENGTHS, mesh).text
    assert text.count(FORWARD) == text.count(BACKWARD) == (2 if is_fused else 0)
