"""What the TPU's own compiler makes of the training step; nothing runs."""

import importlib.util
import math
import re

import pytest

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.planning.hardware import parse_slice
from prompt_tuning_jax.planning.step import Lengths, compile_step

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="need libtpu: pip install '.[plan]'"
    ),
]
LAYERS, D, F = 4, 2048, 5120
STACK = LAYERS * D * F


def compiled(**settings):
    config = T5Config(
        vocab_size=512,
        emb_dim=D,
        num_heads=32,
        head_dim=64,
        mlp_dim=F,
        num_encoder_layers=LAYERS,
        num_decoder_layers=1,
        dtype="bfloat16",
        remat_policy="minimal",
        **settings,
    )
    mesh = sharding.make_mesh("data:1", parse_slice("v5e:1x1").devices())
    return compile_step(config, Lengths(batch=3, inputs=156, targets=8, prompt=100), mesh)


def test_stacked_weights_are_taken_as_they_are_where_layers_come_first():
    """No array of a stack's size is made; of T5X's order, [D, layers, F], one is."""
    made = {}
    for axis in (0, 1):
        text = compiled(scan_layers=True, scan_axis=axis).text
        sizes = re.findall(r"= bf16\[([\d,]+)\]\{[^}]*\} (?:copy|fusion)\(", text)
        made[axis] = [dims for dims in sizes if math.prod(map(int, dims.split(","))) == STACK]
    assert not made[0]
    assert made[1]


def test_attention_is_one_kernel_each_way():
    """What the backward pass needs of the forward one it makes itself."""
    text = compiled().text
    assert text.count('custom_call_target="tpu_custom_call"') == 2 * LAYERS
    assert "f32[3,32,256,256]" not in text
