"""The TPU's attention kernels: interpreted beside the plain form, and compiled for real TPUs."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import slow
from jax.sharding import NamedSharding, PartitionSpec

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.attention import bias as attention_bias
from prompt_tuning_jax.models.attention import tpu_kernel
from prompt_tuning_jax.models.attention.softmax import softmax
from prompt_tuning_jax.models.attention.tpu_kernel import fits, fused_attention, kernel_cost
from prompt_tuning_jax.planning import hardware

interpreted = functools.partial(fused_attention, interpret=True)
AXES = {"batch_axes": ("data", "fsdp"), "head_axes": "model"}


def plain(q, k, v, mask, by_offset):
    """`_Attention._attend`, with the bias looked up."""
    scores = jnp.einsum("bhlk,bhsk->bhls", q, k, preferred_element_type=jnp.float32)
    scores += attention_bias.mask_bias(mask)
    if by_offset is not None:
        L, S = scores.shape[2:]
        offsets = np.arange(S)[None, :] - np.arange(L)[:, None]
        scores += by_offset[:, offsets + L - 1][None]
    return jnp.einsum("bhls,bhsk->bhlk", softmax(scores).astype(q.dtype), v)


def padding(rng, B, L, S):
    lengths = rng.integers(0, S + 1, (B, 1, 1))
    lengths[0] = 0  # these queries see nothing
    return np.arange(S)[None, None] < lengths


def segments(rng, B, L, S):
    of_queries, of_keys = np.sort(rng.integers(0, 4, (B, L))), np.sort(rng.integers(1, 4, (B, S)))
    return of_queries[:, :, None] == of_keys[:, None, :]


def causal(rng, B, L, S):
    return np.tri(L, S, S // 4, bool)[None]


def scattered(rng, B, L, S):
    mask = rng.random((B, L, S)) < 0.4
    mask[:, L // 2 :: 3] = False
    return mask


def everything(rng, B, L, S):
    return np.ones((1, 1, S), bool)


def make(seed, B, H, L, S, K, mask, bias, dtype=jnp.float32):
    """q, k, v; the mask and by_offset; a cotangent."""
    rng = np.random.default_rng(seed)
    q, k, v, dout = (jnp.asarray(rng.standard_normal((B, H, n, K)), dtype) for n in (L, S, S, L))
    by_offset = jnp.asarray(rng.standard_normal((H, L + S - 1)), jnp.float32) if bias else None
    return (q * K**-0.5, k, v), (jnp.asarray(mask(rng, B, L, S)), by_offset), dout


def both_ways(attend, inputs, bias, dout):
    """The output, dq, dk and dv."""

    @jax.jit
    def run(inputs, bias, dout):
        out, backward = jax.vjp(lambda *inputs: attend(*inputs, *bias), *inputs)
        return out, *backward(dout)

    return run(inputs, bias, dout)


def assert_alike(attend, inputs, bias, dout, tolerance=1e-5):
    expected = both_ways(plain, inputs, bias, dout)
    got = both_ways(attend, inputs, bias, dout)
    for name, one, other in zip(("out", "dq", "dk", "dv"), expected, got, strict=True):
        assert one.dtype == other.dtype
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        scale = max(1.0, np.abs(one).max())
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize(
    ("B", "H", "L", "S", "K", "mask", "bias"),
    [
        slow(2, 2, 150, 40, 64, padding, True),
        (1, 3, 20, 140, 64, scattered, True),  # half a group of heads is empty
        (2, 2, 33, 20, 16, segments, False),
    ],
)
def test_it_equals_the_plain_form(B, H, L, S, K, mask, bias):
    assert_alike(interpreted, *make(0, B, H, L, S, K, mask, bias))


@pytest.mark.slow
def test_bfloat16():
    made = make(1, 1, 2, 24, 30, 64, causal, True, jnp.bfloat16)
    assert_alike(interpreted, *made, tolerance=0.03)


@pytest.mark.parametrize("spec", [slow("data:2"), "model:2"])
def test_over_a_mesh(spec):
    mesh = sharding.make_mesh(spec)
    attend = functools.partial(tpu_kernel.sharded_attention, mesh, interpret=True, **AXES)
    assert_alike(attend, *make(2, 2, 4, 12, 20, 64, padding, True))


@pytest.mark.slow
@pytest.mark.parametrize("mask", [padding, segments, causal, scattered, everything])
@pytest.mark.parametrize(
    ("B", "H", "L", "S", "K"),
    [
        (2, 2, 300, 270, 64),
        (2, 1, 129, 257, 64),
        (1, 2, 256, 128, 128),
        (1, 9, 130, 100, 16),
        (3, 2, 1, 200, 32),
        (1, 1, 260, 1, 256),
    ],
)
def test_it_equals_the_plain_form_for_more_shapes(B, H, L, S, K, mask):
    for bias in (True, False):
        assert_alike(interpreted, *make(L, B, H, L, S, K, mask, bias))


@pytest.mark.slow
@pytest.mark.parametrize("mask", [segments, causal, everything])
@pytest.mark.parametrize("spec", ["data:2", "model:2", "fsdp:2"])
def test_more_masks_over_a_mesh(spec, mask):
    mesh = sharding.make_mesh(spec)
    attend = functools.partial(tpu_kernel.sharded_attention, mesh, interpret=True, **AXES)
    for bias in (True, False):
        assert_alike(attend, *make(3, 2, 6, 140, 50, 64, mask, bias))


def over_copies(attend, inputs, bias, dout):
    return both_ways(
        lambda q, k, v, mask, b: jax.vmap(attend, (0, 0, 0, 0, None))(q, k, v, mask, b),
        inputs,
        bias,
        dout,
    )


def test_copies_of_a_model_attend_as_each_alone():
    """As several runs in one do, which share the frozen bias."""
    runs = [make(seed, 2, 2, 40, 150, 64, padding, True) for seed in range(3)]
    by_offset = runs[0][1][1]
    inputs, douts = (
        jax.tree.map(lambda *x: jnp.stack(x), *each)
        for each in zip(*[(r[0], r[2]) for r in runs], strict=True)
    )
    masks = jnp.stack([bias[0] for _, bias, _ in runs])
    together = over_copies(interpreted, inputs, (masks, by_offset), douts)
    expected = over_copies(plain, inputs, (masks, by_offset), douts)
    for ours, theirs in zip(together, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_masks_and_biases_are_frozen():
    inputs, (mask, by_offset), _ = make(4, 1, 1, 3, 5, 128, padding, True)
    change = jax.jit(jax.grad(lambda by_offset: interpreted(*inputs, mask, by_offset).sum()))
    assert not change(by_offset).any()


def test_what_fits():
    for dtype in (jnp.bfloat16, jnp.float32):
        assert fits(640, 640, 64, dtype)
        assert fits(640, 640, 128, dtype)
        assert not fits(2048, 2048, 64, dtype)
    assert fits(1024, 1024, 64, jnp.bfloat16)
    assert not fits(16, 16, 96, jnp.bfloat16)


def test_costs():
    flops, traffic = kernel_cost(2, 4, 8, 16, 64, 2)
    assert flops == 4 * 2 * 4 * 8 * 16 * 64
    assert traffic == 2 * 2 * 4 * 64 * (2 * 8 + 2 * 16) + 2 * 2 * 16 * 4
    assert kernel_cost(2, 4, 8, 16, 64, 2, backward=True)[0] == 2.5 * flops
    assert kernel_cost(2, 4, 8, 16, 64, 2, full_mask=True)[1] == traffic + 2 * 2 * 16 * 4


def assert_compiles(topology, L, S, K, *, full, bias, cap=None):
    """Both kernels, over four TPUs, without the scores in main memory."""
    B, H = 4, 4
    mesh = sharding.make_mesh("data:2,model:2", hardware.parse_slice(topology).devices())

    def array(shape, dtype, *spec):
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec))
        )

    def loss(q, k, v, mask, by_offset):
        attend = functools.partial(tpu_kernel.sharded_attention, mesh, cap=cap, **AXES)
        return jnp.sum(attend(q, k, v, mask, by_offset).astype(jnp.float32) ** 2)

    inputs = [array((B, H, n, K), jnp.bfloat16, "data", "model") for n in (L, S, S)]
    mask = array((B, L if full else 1, S), jnp.bool_, "data")
    by_offset = array((H, L + S - 1), jnp.float32, "model") if bias else None
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    compiled = step.lower(*inputs, mask, by_offset).compile()
    kernels = compiled.as_text()
    assert "attention_forward" in kernels
    assert "attention_backward" in kernels
    # The scores [B, H, L, S] are never in main memory.
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * B * H * (L + S) * K


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="need libtpu: pip install '.[plan]'"
)


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize(
    ("L", "S", "full", "bias"),
    [(612, 612, False, True), (164, 164, True, True), (1024, 1024, True, True), (8, 612, 0, 0)],
)
def test_the_tpu_compiler_takes_it(topology, L, S, full, bias):
    assert_compiles(topology, L, S, 64, full=full, bias=bias)


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize(("K", "longest"), [(64, 1024), (128, 1280), (256, 896)])
def test_the_tpu_compiler_takes_the_longest_capped_scores_that_fit(K, longest):
    assert fits(longest, longest, K, jnp.bfloat16, is_capped=True)
    assert not fits(longest + 1, longest + 1, K, jnp.bfloat16, is_capped=True)
    assert_compiles("v4:2x2x1", longest, longest, K, full=True, bias=False, cap=50.0)
