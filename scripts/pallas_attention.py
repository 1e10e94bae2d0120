"""Attention with a frozen bias of relative positions, as Pallas kernels for GPUs, by Triton.

A trial, for `benchmark_attention.py`: what a kernel of our own would be beside cuDNN's, which the
library takes. Three kernels, one forward and two backward (of q; of k and v), none of which keeps
scores. The bias is read in base 2 from a table [H, L, S], which all rows share.

B batch   H heads   L queries   S keys   K head dim   M queries of a block   C keys of a block
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from prompt_tuning_jax.models.attention.bias import toeplitz

BASE_2 = math.log2(math.e)
LARGEST_BLOCK = 128
MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How a kernel goes through the scores.

    Attributes:
      queries, keys: M and C.
      warps, stages: of 32 threads for each block; of loads that run ahead.
    """

    queries: int = 128
    keys: int = 64
    warps: int = 4
    stages: int = 3


def bias_table(by_offset_HxO: jax.Array, L: int, dtype: Any) -> jax.Array:
    """[H, L, S] up to whole blocks, in base 2; no key past the last one is seen."""
    table = toeplitz(by_offset_HxO, L)[0] * BASE_2
    (_, _, S), whole = table.shape, LARGEST_BLOCK
    table = jnp.pad(table, ((0, 0), (0, 0), (0, -S % whole)), constant_values=-jnp.inf)
    return jnp.pad(table, ((0, 0), (0, -L % whole), (0, 0))).astype(dtype)


def mask_of(seen_BxS: jax.Array) -> jax.Array:
    """What is added to the scores of a row's keys, up to whole blocks."""
    mask = jnp.where(seen_BxS, 0.0, MASKED).astype(jnp.float32)
    return jnp.pad(mask, ((0, 0), (0, -mask.shape[1] % LARGEST_BLOCK)))


# ---- kernels -------------------------------------------------------------------------------------


class _Part:
    """Some rows of arrays; what lies past their end is not read, and not written."""

    def __init__(self, number: Any, size: int, end: int, may_end: bool):
        self.rows = pl.ds(number * size, size)
        self._inside = (number * size + jnp.arange(size) < end) if may_end else None

    def load(self, ref: Any, other: float = 0.0) -> jax.Array:
        if self._inside is None:
            return triton.load(ref.at[self.rows])
        inside = self._inside if len(ref.shape) == 1 else self._inside[:, None]
        return triton.load(ref.at[self.rows], mask=inside, other=other)

    def store(self, ref: Any, x: jax.Array) -> None:
        inside = self._inside if len(ref.shape) == 1 else self._inside[:, None]
        triton.store(ref.at[self.rows], x.astype(ref.dtype), mask=inside)


def _for_parts(size: int, end: int, step: Any, carry: Any) -> Any:
    """step(part, carry) for all parts, of which the last may reach past the end."""
    whole, rest = divmod(end, size)

    def of(may_end: bool) -> Any:
        return lambda number, carry: step(_Part(number, size, end, may_end), carry)

    carry = lax.fori_loop(0, whole, of(False), carry)
    return lax.fori_loop(whole, whole + 1, of(True), carry) if rest else carry


def _scores(q_MxK, k_CxK, bias_ref, mask_ref, queries: _Part, keys: _Part) -> jax.Array:
    """In base 2."""
    products_MxC = triton.dot(q_MxK, k_CxK.T) * BASE_2
    bias_MxC = triton.load(bias_ref.at[queries.rows, keys.rows]).astype(jnp.float32)
    return products_MxC + bias_MxC + triton.load(mask_ref.at[keys.rows])[None, :]


def _forward_kernel(blocks, q_ref, k_ref, v_ref, bias_ref, mask_ref, out_ref, sums_ref):
    queries = _Part(pl.program_id(0), blocks.queries, q_ref.shape[0], True)
    q_MxK = queries.load(q_ref)

    def step(keys, carry):
        out_MxK, largest_M, sums_M = carry
        scores_MxC = _scores(q_MxK, keys.load(k_ref), bias_ref, mask_ref, queries, keys)
        new_M = jnp.maximum(largest_M, jnp.max(scores_MxC, axis=-1))
        weights_MxC, shrunk_M = jnp.exp2(scores_MxC - new_M[:, None]), jnp.exp2(largest_M - new_M)
        v_CxK = keys.load(v_ref)
        out_MxK = out_MxK * shrunk_M[:, None] + triton.dot(weights_MxC.astype(v_CxK.dtype), v_CxK)
        return out_MxK, new_M, sums_M * shrunk_M + jnp.sum(weights_MxC, axis=-1)

    M, K = q_MxK.shape
    nothing = jnp.zeros((M, K), jnp.float32), jnp.full(M, -jnp.inf), jnp.zeros(M, jnp.float32)
    out_MxK, largest_M, sums_M = _for_parts(blocks.keys, k_ref.shape[0], step, nothing)
    queries.store(out_ref, out_MxK / sums_M[:, None])
    queries.store(sums_ref, largest_M + jnp.log2(sums_M))


def _dscores(scores_MxC, do_MxK, v_CxK, sums_M, delta_M):
    """The weights, and the gradients of the scores."""
    weights_MxC = jnp.exp2(scores_MxC - sums_M[:, None])
    return weights_MxC, weights_MxC * (triton.dot(do_MxK, v_CxK.T) - delta_M[:, None])


def _dq_kernel(
    blocks, q_ref, k_ref, v_ref, bias_ref, mask_ref, do_ref, sums_ref, delta_ref, dq_ref
):
    queries = _Part(pl.program_id(0), blocks.queries, q_ref.shape[0], True)
    q_MxK, do_MxK = queries.load(q_ref), queries.load(do_ref)
    sums_M, delta_M = queries.load(sums_ref, jnp.inf), queries.load(delta_ref)

    def step(keys, dq_MxK):
        k_CxK = keys.load(k_ref)
        scores_MxC = _scores(q_MxK, k_CxK, bias_ref, mask_ref, queries, keys)
        _, ds_MxC = _dscores(scores_MxC, do_MxK, keys.load(v_ref), sums_M, delta_M)
        return dq_MxK + triton.dot(ds_MxC.astype(k_CxK.dtype), k_CxK)

    nothing = jnp.zeros(q_MxK.shape, jnp.float32)
    queries.store(dq_ref, _for_parts(blocks.keys, k_ref.shape[0], step, nothing))


def _dkv_kernel(
    blocks, q_ref, k_ref, v_ref, bias_ref, mask_ref, do_ref, sums_ref, delta_ref, dk_ref, dv_ref
):
    keys = _Part(pl.program_id(0), blocks.keys, k_ref.shape[0], True)
    k_CxK, v_CxK = keys.load(k_ref), keys.load(v_ref)

    def step(queries, carry):
        dk_CxK, dv_CxK = carry
        q_MxK, do_MxK = queries.load(q_ref), queries.load(do_ref)
        sums_M, delta_M = queries.load(sums_ref, jnp.inf), queries.load(delta_ref)
        scores_MxC = _scores(q_MxK, k_CxK, bias_ref, mask_ref, queries, keys)
        weights_MxC, ds_MxC = _dscores(scores_MxC, do_MxK, v_CxK, sums_M, delta_M)
        dk_CxK += triton.dot(ds_MxC.astype(q_MxK.dtype).T, q_MxK)
        return dk_CxK, dv_CxK + triton.dot(weights_MxC.astype(do_MxK.dtype).T, do_MxK)

    nothing = (jnp.zeros(k_CxK.shape, jnp.float32),) * 2
    for ref, x_CxK in zip(
        (dk_ref, dv_ref), _for_parts(blocks.queries, q_ref.shape[0], step, nothing), strict=True
    ):
        keys.store(ref, x_CxK)


# ---- calls ---------------------------------------------------------------------------------------


def forward(q, k, v, table, mask, blocks: Blocks = Blocks(), interpret: bool = False):
    """(out, the logarithms in base 2 of the softmaxes' sums), of [B, H, L or S, K]."""
    B, H, L, _ = q.shape
    sums = jax.ShapeDtypeStruct((B, H, L), jnp.float32)
    return _call(_forward_kernel, blocks, interpret, L, (q, k, v, table, mask), [q, sums])


def backward_q(
    q, k, v, table, mask, do, sums, delta, blocks: Blocks = Blocks(), interpret: bool = False
):
    """The gradient of q; `delta` is the sum of out * do over K."""
    arrays = (q, k, v, table, mask, do, sums, delta)
    return _call(_dq_kernel, blocks, interpret, q.shape[2], arrays, [q])[0]


def backward_kv(
    q, k, v, table, mask, do, sums, delta, blocks: Blocks = Blocks(64, 128), interpret: bool = False
):
    """The gradients of k and v."""
    arrays = (q, k, v, table, mask, do, sums, delta)
    return _call(_dkv_kernel, blocks, interpret, k.shape[2], arrays, [k, v])


def _call(kernel, blocks, interpret, length, arrays, results):
    """Blocks of a row's head follow each other, then rows: a head's bias stays in the cache."""
    B, H = arrays[0].shape[:2]
    size = blocks.keys if kernel is _dkv_kernel else blocks.queries
    q, k, v, table, mask, *others = arrays
    of_head = pl.BlockSpec((None, *table.shape[1:]), lambda _, b, h: (h, 0, 0))
    of_row = pl.BlockSpec((None, mask.shape[1]), lambda _, b, h: (b, 0))
    specs = [*map(_of_both, (q, k, v)), of_head, of_row, *map(_of_both, others)]
    return pl.pallas_call(
        functools.partial(kernel, blocks),
        grid=(pl.cdiv(length, size), B, H),
        in_specs=specs,
        out_specs=[_of_both(x) for x in results],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
        compiler_params=triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=interpret,
    )(*arrays)


def _of_both(x) -> pl.BlockSpec:
    """All of a row's head."""
    rest = x.shape[2:]
    return pl.BlockSpec((None, None, *rest), lambda _, b, h: (b, h, *[0] * len(rest)))
