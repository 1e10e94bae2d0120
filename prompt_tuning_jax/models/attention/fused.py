"""Attention by a kernel of the TPU's or the GPU's, which keeps no scores in memory.

The kernels have gradients for queries, keys and values, as a frozen model needs. Where the bias of
relative positions is trained too, as in model tuning, the plain form stands in.

B batch   H heads   G heads of keys   L queries   S keys   K head dim   O offsets
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import partitioning
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from prompt_tuning_jax.models.attention import chunked, cudnn, dense, tpu_kernel
from prompt_tuning_jax.models.attention.bias import Bias, mask_bias, toeplitz
from prompt_tuning_jax.models.attention.choice import DEFAULT_CHUNK, active_mesh

# Of (q, k, v, seen [#B, #L, S], by_offset [H, O] or None).
Kernel = Callable[..., Array]


def attend(
    q_BxHxLxK: Float[Array, "B H L K"],
    k_BxGxSxK: Float[Array, "B G S K"],
    v_BxGxSxK: Float[Array, "B G S K"],
    bias: Bias,
    platform: str,
    cap: float | None = None,
) -> Float[Array, "B H L K"]:
    """softmax(cap(q k') + bias) v, on the active mesh's devices."""
    kernel = cudnn.attend
    if platform != "gpu":
        kernel = _tpu_kernel(platform != "tpu", cap)
        sharing = q_BxHxLxK.shape[1] // k_BxGxSxK.shape[1]
        k_BxGxSxK, v_BxGxSxK = (jnp.repeat(x, sharing, axis=1) for x in (k_BxGxSxK, v_BxGxSxK))
    return _attend(kernel, q_BxHxLxK, k_BxGxSxK, v_BxGxSxK, bias.seen, bias.by_offset)


def _tpu_kernel(interpret: bool, cap: float | None) -> Kernel:
    """Over a mesh each device has its rows and heads, by the rules for logical axes."""
    options = {"interpret": interpret, "cap": cap}
    if (mesh := active_mesh()) is None:
        return functools.partial(tpu_kernel.fused_attention, **options)
    rows, heads = partitioning.logical_to_mesh_axes(("batch", "heads"))
    return functools.partial(
        tpu_kernel.sharded_attention, mesh, batch_axes=rows, head_axes=heads, **options
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(kernel: Kernel, q: Array, k: Array, v: Array, seen: Array, by_offset: Any) -> Array:
    return kernel(q, k, v, seen, by_offset)


def _forward(kernel: Kernel, *arguments: Any) -> tuple[Array, Any]:
    q, k, v, seen, by_offset = jax.tree.map(lambda x: x.value, arguments)
    if by_offset is not None and arguments[-1].perturbed:
        return jax.vjp(lambda *x: _plain(*x[:3], seen, x[3]), q, k, v, by_offset)
    return jax.vjp(lambda *x: kernel(*x, seen, by_offset), q, k, v)


def _backward(kernel: Kernel, pullback: Callable[[Array], Any], change: Any) -> tuple[Any, ...]:
    if isinstance(change, SymbolicZero):
        change = jnp.zeros(change.shape, change.dtype)
    of_q, of_k, of_v, *of_offsets = pullback(change)
    return of_q, of_k, of_v, None, *(of_offsets or [None])


_attend.defvjp(_forward, _backward, symbolic_zeros=True)


def _plain(q: Array, k: Array, v: Array, seen: Array, by_offset: Array) -> Array:
    bias = Bias(mask_bias(seen), toeplitz(by_offset, q.shape[2]))
    if q.shape[2] > DEFAULT_CHUNK:
        return chunked.attend(q, k, v, bias, DEFAULT_CHUNK)
    return dense.attend(q, k, v, bias)
