"""Published sizes, and settings that cannot be."""

import math

import jax
import jax.numpy as jnp
import pytest
from common import slow

from prompt_tuning_jax.models.t5 import T5Config, Transformer, mt5, t5_1_0, t5_1_1


def parameter_count(config: T5Config) -> int:
    tokens = jnp.ones((1, 2), jnp.int32)
    shapes = jax.eval_shape(
        lambda: Transformer(config).init(jax.random.key(0), tokens, tokens, tokens)["params"]
    )
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (t5_1_1("small"), 76_961_152),
        slow(t5_1_1("base"), 247_577_856),
        (t5_1_0("small"), 60_506_624),
        slow(t5_1_0("base"), 222_903_552),
        (mt5("small"), 300_176_768),
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(config, parameters):
    assert parameter_count(config) == parameters


def test_overrides_and_normal_forms():
    config = t5_1_1("xxl", dropout_rate=0.1, dtype="bfloat16", mlp_activations=["gelu", "linear"])
    assert config.emb_dim == 4096
    assert config.dtype == jnp.bfloat16
    assert config == t5_1_1("xxl", dropout_rate=0.1, dtype=jnp.bfloat16)
    assert hash(config) == hash(t5_1_1("xxl", dropout_rate=0.1, dtype=jnp.bfloat16))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: t5_1_1("tiny"), "Unknown T5 size 'tiny': choose from small, base"),
        (lambda: t5_1_1("small", mlp_activations=("tanh",)), "Unknown activation 'tanh'"),
        (lambda: t5_1_1("small", dropout_rate=1.0), r"must be in \[0, 1\), not 1.0"),
        (lambda: t5_1_1("small", num_heads=0), "num_heads must be 1 or more, not 0"),
        (lambda: t5_1_1("small", num_encoder_layers=-1), "num_encoder_layers must be 0 or more"),
        (
            lambda: parameter_count(t5_1_1("small", num_encoder_layers=0)),
            "no encoder layers: decoder_only.DecoderOnly is its network",
        ),
        (
            lambda: t5_1_1("small", remat_policy="some"),
            "remat_policy is one of .*'none', 'minimal', 'full'.*, not 'some'",
        ),
    ],
)
def test_errors_name_the_problem(make, message):
    with pytest.raises(ValueError, match=message):
        make()
