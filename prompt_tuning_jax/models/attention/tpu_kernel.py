"""Attention, softmax(cap(q k') + bias + mask) v, as one Pallas kernel each way, for TPUs.

B batch   H heads   L queries   S keys   K head dim   J joined heads, H K   O offsets, L + S - 1

The scores never leave the chip's vector memory, which holds the queries, keys and values of one row
and one group of heads at a time; the backward pass computes the weights again from them. Heads stay
joined, [B, L, H K], as the projections make them, and nothing is padded in main memory: a head of
64 would fill half of each vector there. `tpu_blocks` has the kernels' own side.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32

from prompt_tuning_jax.models.attention.bias import MASKED
from prompt_tuning_jax.models.attention.tpu_blocks import (
    LANES,
    Sizes,
    backward_kernel,
    forward_kernel,
)

# A v4 core has 16 MiB of vector memory, and other TPUs give a kernel that much unasked.
VECTOR_MEMORY = 16 * 2**20
MeshAxes = str | tuple[str, ...] | None


def fits(L: int, S: int, K: int, dtype: Any, is_capped: bool = False) -> bool:
    """Whether the kernels can attend with L queries to S keys, both ways, on every TPU."""
    if LANES % K and K % LANES:
        return False
    sizes = Sizes(1, 1, L, S, K, cap=1.0 if is_capped else None)
    return sizes.memory(jnp.dtype(dtype).itemsize) <= VECTOR_MEMORY


def kernel_cost(
    B: int,
    H: int,
    L: int,
    S: int,
    K: int,
    itemsize: int,
    *,
    backward: bool = False,
    full_mask: bool = False,
) -> tuple[int, int]:
    """The flops, and the bytes from and to main memory, of one call; XLA counts neither.

    Args:
      backward: of the backward pass, and not of the forward pass.
      full_mask: the mask differs from query to query; each group of heads reads it again.
    """
    products, queries, keys = (5, 3, 4) if backward else (2, 2, 2)
    arrays = B * H * K * (queries * L + keys * S) * itemsize
    masks = B * Sizes(B, H, L, S, K).groups * S * (L if full_mask else 4)
    return 2 * products * B * H * L * S * K, arrays + masks


def fused_attention(
    q_BxHxLxK: Float[Array, "B H L K"],
    k_BxHxSxK: Float[Array, "B H S K"],
    v_BxHxSxK: Float[Array, "B H S K"],
    mask_BxLxS: Bool[Array, "#B #L S"],
    by_offset_HxO: Float32[Array, "H L+S-1"] | None,
    *,
    cap: float | None = None,
    interpret: bool = False,
) -> Float[Array, "B H L K"]:
    """softmax(cap(q k') + bias + mask) v; scores and softmax in float32, weights in q's dtype.

    Differentiable in q, k and v; the bias is frozen. Check with `fits` first.

    Args:
      mask_BxLxS: False where a query must not see a key: MASKED is added to the score.
      by_offset_HxO: bias[h, i, j] is by_offset[h, j - i + L - 1]; None is no bias.
      cap: scores become cap * tanh(score / cap) before bias and mask; None: they stay.
      interpret: run on a CPU, slowly.
    """
    (B, H, L, K), S = q_BxHxLxK.shape, k_BxHxSxK.shape[2]
    sizes = Sizes(B, H, L, S, K, cap)
    if mask_BxLxS.shape[1] == 1:
        mask = jnp.where(mask_BxLxS, 0.0, MASKED).astype(jnp.float32)
    else:
        mask = mask_BxLxS.astype(jnp.int8)
    qkv = _joined(q_BxHxLxK), _joined(k_BxHxSxK), _joined(v_BxHxSxK)
    out_BxLxJ = _attend(sizes, interpret, *qkv, mask, by_offset_HxO)
    return jnp.swapaxes(out_BxLxJ.reshape(B, L, H, K), 1, 2)


def sharded_attention(
    mesh: Mesh | AbstractMesh,
    q_BxHxLxK: Float[Array, "B H L K"],
    k_BxHxSxK: Float[Array, "B H S K"],
    v_BxHxSxK: Float[Array, "B H S K"],
    mask_BxLxS: Bool[Array, "#B #L S"],
    by_offset_HxO: Float32[Array, "H L+S-1"] | None,
    *,
    batch_axes: MeshAxes,
    head_axes: MeshAxes,
    cap: float | None = None,
    interpret: bool = False,
) -> Float[Array, "B H L K"]:
    """`fused_attention` of each device's rows and heads; XLA cannot split a kernel itself.

    Args:
      batch_axes: the mesh axes that the rows are split over, if they divide them; else every device
        computes all rows.
      head_axes: the same of heads.
    """
    batch_axes = _if_they_divide(mesh, batch_axes, q_BxHxLxK.shape[0])
    head_axes = _if_they_divide(mesh, head_axes, q_BxHxLxK.shape[1])
    heads = PartitionSpec(batch_axes, head_axes)
    mask = PartitionSpec(batch_axes if mask_BxLxS.shape[0] > 1 else None)
    offsets = None if by_offset_HxO is None else PartitionSpec(head_axes)
    own = jax.shard_map(
        functools.partial(fused_attention, cap=cap, interpret=interpret),
        mesh=mesh,
        in_specs=(heads, heads, heads, mask, offsets),
        out_specs=heads,
        check_vma=False,  # kernels do not say over which axes their results differ
    )
    # Frozen out here too: a gradient, even of zeros, would be summed over the devices.
    frozen = None if by_offset_HxO is None else jax.lax.stop_gradient(by_offset_HxO)
    return own(q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, mask_BxLxS, frozen)


def _if_they_divide(mesh: Mesh | AbstractMesh, axes: MeshAxes, size: int) -> MeshAxes:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return axes if size % math.prod(mesh.shape[name] for name in names) == 0 else None


def _joined(x_BxHxLxK: Float[Array, "B H L K"]) -> Float[Array, "B L J"]:
    """Undoes the split into heads; XLA cancels the two."""
    B, H, L, K = x_BxHxLxK.shape
    return jnp.swapaxes(x_BxHxLxK, 1, 2).reshape(B, L, H * K)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(sizes, interpret, q_BxLxJ, k_BxSxJ, v_BxSxJ, mask, by_offset_HxO):
    arrays = (q_BxLxJ, k_BxSxJ, v_BxSxJ, mask, by_offset_HxO)
    return _call(forward_kernel, sizes, *arrays, results=arrays[:1], interpret=interpret)[0]


def _attend_forward(sizes, interpret, *arrays):
    return _attend(sizes, interpret, *arrays), arrays


def _attend_backward(sizes, interpret, arrays, dout_BxLxJ):
    gradients = _call(
        backward_kernel, sizes, *arrays, dout_BxLxJ, results=arrays[:3], interpret=interpret
    )
    return *gradients, None, None  # None is zero


_attend.defvjp(_attend_forward, _attend_backward)


def _call(kernel, sizes, q, k, v, mask, by_offset, *cotangent, results, interpret):
    """What a kernel gives for every group of heads and, within it, every row.

    Args:
      results: arrays like those that it gives.
    """
    B, H, L, S, K, _ = dataclasses.astuple(sizes)
    backward = bool(cotangent)
    of_queries = pl.BlockSpec((None, sizes.queries, sizes.N), lambda group, b: (b, 0, group))
    of_keys = pl.BlockSpec((None, sizes.keys, sizes.N), lambda group, b: (b, 0, group))
    of_mask = pl.BlockSpec(
        (None, 1 if mask.shape[1] == 1 else sizes.queries, sizes.keys),
        lambda group, b: (b if mask.shape[0] > 1 else 0, 0, 0),
    )
    offsets = of_offsets = None
    scratch = {}
    if by_offset is not None:
        offsets = sizes.first_rows(by_offset)
        of_offsets = pl.BlockSpec((None, *offsets.shape[1:]), lambda group, b: (group, 0, 0))
        scratch["strip_ref"] = (sizes.R, sizes.W)
    if backward:
        scratch |= dict.fromkeys(("dk_sum_ref", "dv_sum_ref"), (sizes.keys, sizes.N))
    flops, traffic = kernel_cost(
        B, H, L, S, K, q.dtype.itemsize, backward=backward, full_mask=mask.shape[1] > 1
    )
    return pl.pallas_call(
        functools.partial(kernel, sizes),
        grid=(sizes.groups, B),
        in_specs=(of_queries, of_keys, of_keys, of_mask, of_offsets, *[of_queries] * backward),
        out_specs=(of_queries, of_keys, of_keys)[: len(results)],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
        scratch_shapes={name: pltpu.VMEM(shape, jnp.float32) for name, shape in scratch.items()},
        compiler_params=pltpu.CompilerParams(
            # The rows of a group follow each other on one core: the first makes the strip.
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=VECTOR_MEMORY,
        ),
        cost_estimate=pl.CostEstimate(
            flops=flops, bytes_accessed=traffic, transcendentals=B * H * L * S
        ),
        interpret=interpret,
        name="attention_backward" if backward else "attention_forward",
    )(q, k, v, mask, offsets, *cotangent)
