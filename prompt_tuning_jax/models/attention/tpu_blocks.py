"""What the TPU's attention kernels do with one row and one group of heads.

L queries   S keys   H heads   K head dim   G heads of a group   N their lanes, side by side: G K
C queries of a block   R rows of a stack, G C   O offsets, L + S - 1   W width of the strip

A vector has 128 lanes, and heads narrower than that come G at a time. A matrix product spans the N
lanes of the group; for it the C queries of a block are stacked, once for each head, with zeros in
the lanes of the other heads.

The bias of relative positions is a Toeplitz matrix, bias[i, j] = by_offset[j - i + L - 1]. Each
block of C queries sees a part of one strip, strip[c, x] = by_offset[x - c + a constant], which is
made for a group's first row and serves the others.

A block reaches past the end of an array whose sizes are not multiples of its own. What it reads
there is anything: zeros take its place, and the score of a key there is -inf.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float32

from prompt_tuning_jax.models.attention.bias import MASKED, capped

LANES = 128


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of the arrays, and of the blocks that the kernels see of them.

    Attributes:
      cap: of the scores: they become cap * tanh(score / cap) before anything is added.
    """

    B: int
    H: int
    L: int
    S: int
    K: int
    cap: float | None = None

    @property
    def G(self) -> int:
        return max(1, LANES // self.K)

    @property
    def N(self) -> int:
        return self.G * self.K

    @property
    def C(self) -> int:
        return min(128, _up(self.L, 32))

    @property
    def R(self) -> int:
        return self.G * self.C

    @property
    def groups(self) -> int:
        return pl.cdiv(self.H, self.G)

    @property
    def blocks(self) -> int:
        return pl.cdiv(self.L, self.C)

    @property
    def queries(self) -> int:
        return self.blocks * self.C

    @property
    def keys(self) -> int:
        return _up(self.S, LANES)

    @property
    def W(self) -> int:
        return _up(self.queries + self.keys, LANES)

    def memory(self, itemsize: int) -> int:
        """Bytes of vector memory that the backward pass takes at most, a mask for every query."""
        arrays = (3 * self.queries + 4 * self.keys) * self.N * itemsize + self.queries * self.keys
        strip = self.G * self.W * (self.C + 2 * 8) * 4
        sums, cleaned = 2 * self.keys * self.N * 4, 2 * self.keys * self.N * itemsize
        # What is alive of a block's scores, as measured; newer compilers keep less. A cap keeps one
        # array more: of heads of 256, 0.64 MiB for 1280 keys (libtpu 0.0.42.1, for a v4).
        capped = self.R if self.cap else 0
        scores = (3 * self.R + 2 * self.C + capped) * self.keys * 4
        return 2 * arrays + strip + sums + cleaned + scores  # arrays come and go while it computes

    def first_rows(self, by_offset_HxO: Float32[Array, "H O"]) -> Float32[Array, "groups rows W"]:
        """The first 8 rows of each head's strip; v4 could not roll them one lane further each."""
        before = self.queries - self.L
        after = self.W - before - by_offset_HxO.shape[1]
        heads = self.groups * self.G - self.H
        padded = jnp.pad(by_offset_HxO, ((0, heads), (before, after)))
        rows = [jnp.roll(padded, c - self.C + 1, axis=1) for c in range(8)]
        return jnp.stack(rows, axis=1).reshape(self.groups, 8 * self.G, self.W)


def forward_kernel(sizes, q_ref, k_ref, v_ref, mask_ref, offsets_ref, out_ref, *, strip_ref=None):
    edges = _Edges(sizes)
    k_SxN, v_SxN = edges.keys(k_ref), edges.keys(v_ref)
    _make_strip(sizes, offsets_ref, strip_ref)

    def block(i):
        q_RxN = _stacked(sizes, q_ref[_rows(sizes, i), :])
        products_RxS = _products(sizes, q_RxN, k_SxN)
        weights_RxS = _weights(sizes, i, products_RxS, mask_ref, strip_ref)
        out_RxN = _dot(weights_RxS.astype(v_SxN.dtype), v_SxN, (1, 0))
        out_ref[_rows(sizes, i), :] = _unstacked(sizes, out_RxN).astype(out_ref.dtype)

    _for_blocks(sizes, block)


def backward_kernel(
    sizes, q_ref, k_ref, v_ref, mask_ref, offsets_ref, dout_ref,
    dq_ref, dk_ref, dv_ref, *, dk_sum_ref, dv_sum_ref, strip_ref=None,
):  # fmt: skip
    edges = _Edges(sizes)
    k_SxN, v_SxN = edges.keys(k_ref), edges.keys(v_ref)
    _make_strip(sizes, offsets_ref, strip_ref)
    dk_sum_ref[...] = jnp.zeros_like(dk_sum_ref)
    dv_sum_ref[...] = jnp.zeros_like(dv_sum_ref)

    def block(i):
        q_RxN = _stacked(sizes, edges.queries(q_ref, i))
        dout_RxN = _stacked(sizes, edges.queries(dout_ref, i))
        products_RxS = _products(sizes, q_RxN, k_SxN)
        weights_RxS = _weights(sizes, i, products_RxS, mask_ref, strip_ref)
        dweights_RxS = _dot(dout_RxN, v_SxN, (1, 1))
        change_RxS = weights_RxS * dweights_RxS
        dscores_RxS = change_RxS - weights_RxS * jnp.sum(change_RxS, axis=1, keepdims=True)
        if sizes.cap is not None:
            dscores_RxS *= 1 - jnp.square(products_RxS / sizes.cap)
        dscores_RxS = dscores_RxS.astype(k_SxN.dtype)
        dq_RxN = _dot(dscores_RxS, k_SxN, (1, 0))
        dq_ref[_rows(sizes, i), :] = _unstacked(sizes, dq_RxN).astype(dq_ref.dtype)
        dk_sum_ref[...] += _dot(dscores_RxS, q_RxN, (0, 0))
        dv_sum_ref[...] += _dot(weights_RxS.astype(dout_RxN.dtype), dout_RxN, (0, 0))

    _for_blocks(sizes, block)
    dk_ref[...] = dk_sum_ref[...].astype(dk_ref.dtype)
    dv_ref[...] = dv_sum_ref[...].astype(dv_ref.dtype)


def _for_blocks(sizes, block):
    """`block(i)` for every block of C queries."""
    jax.lax.fori_loop(0, sizes.blocks, lambda i, _: block(i), None)


def _rows(sizes, i):
    """The rows of block i."""
    return pl.ds(pl.multiple_of(i * sizes.C, sizes.C), sizes.C)


def _products(sizes, q_RxN, k_SxN):
    """cap(q k') of a block."""
    return capped(_dot(q_RxN, k_SxN, (1, 1)), sizes.cap)


def _weights(sizes, i, products_RxS, mask_ref, strip_ref):
    """softmax(cap(q k') + mask + bias) of block i."""
    scores_RxS = products_RxS + _mask(sizes, i, mask_ref)
    if strip_ref is not None:
        first = (sizes.blocks - 1 - i) * sizes.C
        scores_RxS += strip_ref[:, pl.ds(pl.multiple_of(first, LANES), sizes.keys)]
    raised_RxS = jnp.exp(scores_RxS - jnp.max(scores_RxS, axis=1, keepdims=True))
    return raised_RxS / jnp.sum(raised_RxS, axis=1, keepdims=True)


def _mask(sizes, i, mask_ref):
    """What the mask adds to the scores of block i, [R, S] or [1, S]."""
    if mask_ref.shape[0] == 1:
        mask = mask_ref[...]
    else:
        seen_CxS = mask_ref[_rows(sizes, i), :].astype(jnp.int32)
        mask = jnp.where(seen_CxS != 0, 0.0, MASKED)
    if sizes.keys > sizes.S:
        mask = jnp.where(_iota(mask.shape, 1) < sizes.S, mask, -jnp.inf)
    return mask if mask.shape[0] == 1 else jnp.concatenate([mask] * sizes.G)


def _make_strip(sizes, offsets_ref, strip_ref):
    """Each 8 rows are the first 8, rolled further; made once for all rows of a group."""
    if strip_ref is None:
        return

    @pl.when(pl.program_id(1) == 0)
    def _():
        for row in range(0, sizes.R, 8):
            g, c = divmod(row, sizes.C)
            first_8xW = offsets_ref[8 * g : 8 * (g + 1), :]
            strip_ref[row : row + 8, :] = pltpu.roll(first_8xW, c, 1)


class _Edges:
    """Blocks with zeros where they reach past the end of their arrays."""

    def __init__(self, sizes):
        self.sizes = sizes
        # The group's heads, counted from its first lane on.
        self.lanes = sizes.H * sizes.K - pl.program_id(0) * sizes.N

    def keys(self, ref):
        sizes = self.sizes
        return self._filled(ref[...], sizes.S, whole=sizes.keys == sizes.S)

    def queries(self, ref, i):
        sizes = self.sizes
        x_CxN = ref[_rows(sizes, i), :]
        return self._filled(x_CxN, sizes.L - i * sizes.C, whole=sizes.queries == sizes.L)

    def _filled(self, x, rows, whole):
        if whole and self.sizes.H % self.sizes.G == 0:
            return x
        inside = (_iota(x.shape, 0) < rows) & (_iota(x.shape, 1) < self.lanes)
        return jnp.where(inside, x, jnp.zeros_like(x))


def _stacked(sizes, x_CxN):
    """The G heads one below the other, each with zeros in the lanes of the others, [R, N]."""
    if sizes.G == 1:
        return x_CxN
    x_RxN = jnp.concatenate([x_CxN] * sizes.G)
    return jnp.where(_own(sizes), x_RxN, jnp.zeros_like(x_RxN))


def _unstacked(sizes, x_RxN):
    """Of each head's rows its own lanes, [C, N]."""
    if sizes.G == 1:
        return x_RxN
    own_RxN = jnp.where(_own(sizes), x_RxN, 0.0)
    return jnp.sum(own_RxN.reshape(sizes.G, sizes.C, sizes.N), axis=0)


def _own(sizes):
    """Which lanes of a stack's rows are of the row's head."""
    shape = (sizes.R, sizes.N)
    return _iota(shape, 0) // sizes.C == _iota(shape, 1) // sizes.K


def _iota(shape, axis):
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)


def _dot(x, y, contracted):
    """A product over one axis of each; the TPU's compiler takes no other precision of bfloat16."""
    exact = x.dtype == jnp.float32
    return jax.lax.dot_general(
        x,
        y,
        ((contracted[:1], contracted[1:]), ((), ())),
        precision=None if exact else jax.lax.Precision.DEFAULT,
        preferred_element_type=jnp.float32,
    )


def _up(size: int, multiple: int) -> int:
    return pl.cdiv(size, multiple) * multiple
