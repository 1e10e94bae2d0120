"""Fused attention on NVIDIA GPUs: cuDNN's, through JAX.

Its limits are met here: even lengths, half-precision inputs, a bias in their dtype. Where the keys
that may be attended to are a row's first ones, as in rows that are padded at their end, cuDNN is
told their number; any other mask is added to the bias, which then is [B, H, L, S], or is the
bias, [B, 1, L, S].

The bias is frozen: cuDNN is not asked for its gradient, which would cost a third of the backward
pass. JAX's public function always asks, so this calls what is behind it.

B batch   H heads   G heads of keys   L queries   S keys   K head dim   O offsets
N copies under vmap
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as library
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from prompt_tuning_jax.models.attention.bias import toeplitz

# What the backward pass needs of the forward one, for a policy of `jax.checkpoint` to keep.
KEPT = "attention"
_MASKED = -(2.0**40)  # in half precision; cuDNN subtracts such numbers from one another
_LARGEST_HEAD = 128
_BY_OFFSET = 4  # its place among the arrays
# (q, k, v, seen [B, 1 or L, S], by_offset [H, O] or None); of the backward pass, three more.
Arrays = tuple[Array | None, ...]


def fits(queries: int, keys: int, head_dim: int, dtype: Any, is_capped: bool = False) -> bool:
    """Whether cuDNN takes such shapes; it caps no scores."""
    if is_capped:
        return False
    return jnp.dtype(dtype) == jnp.bfloat16 and head_dim % 8 == 0 and head_dim <= _LARGEST_HEAD


def attend(
    q_BxHxLxK: Float[Array, "B H L K"],
    k_BxGxSxK: Float[Array, "B G S K"],
    v_BxGxSxK: Float[Array, "B G S K"],
    seen_BxLxS: Bool[Array, "#B #L S"],
    by_offset_HxO: Float[Array, "H O"] | None,
) -> Float[Array, "B H L K"]:
    """softmax(q k' + bias) v; the gradient is that of q, k and v alone.

    A row that may attend to nothing attends to its first key.
    """
    (B, _, L, _), S = q_BxHxLxK.shape, k_BxGxSxK.shape[2]
    heads = [_even(x, 2) for x in (q_BxHxLxK, k_BxGxSxK, v_BxGxSxK)]
    seen_BxLxS = jnp.broadcast_to(seen_BxLxS, (B, *seen_BxLxS.shape[1:]))
    if seen_BxLxS.shape[1] > 1:
        seen_BxLxS = _even(seen_BxLxS, 1)
    if by_offset_HxO is not None:
        by_offset_HxO = jnp.pad(jax.lax.stop_gradient(by_offset_HxO), ((0, 0), (L % 2, S % 2)))
    return _attend(*heads, _even(seen_BxLxS, 2), by_offset_HxO)[:, :, :L]


def _even(x: Array, axis: int) -> Array:
    """One more, of zeros or False, where the length of an axis is odd."""
    return jnp.pad(x, [(0, x.shape[axis] % 2 * (i == axis)) for i in range(x.ndim)])


@jax.custom_vjp
def _attend(q: Array, k: Array, v: Array, seen: Array, by_offset: Array | None) -> Array:
    return _forward(q, k, v, seen, by_offset)[0]


def _attend_forward(*arrays: Array | None) -> tuple[Array, Arrays]:
    out_BxHxLxK, sums_BxHxL = checkpoint_name(_forward(*arrays), KEPT)
    return out_BxHxLxK, (*arrays, sums_BxHxL, out_BxHxLxK)


def _attend_backward(kept: Arrays, change_BxHxLxK: Array) -> Arrays:
    return *_backward(*kept, change_BxHxLxK), None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _rows_together(function: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """Under vmap the N copies of the rows become N B rows, for one choice of the way to mask."""
    function = jax.custom_batching.custom_vmap(function)

    @function.def_vmap
    def of_copies(N: int, are_copies: Sequence[Any], *arrays: Array | None) -> Any:
        if are_copies[_BY_OFFSET]:
            raise NotImplementedError("Fused attention takes one bias for all copies of a model.")

        def joined(x: Array, is_copy: bool) -> Array:
            x = x if is_copy else jnp.broadcast_to(x, (N, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        each = list(zip(arrays, are_copies, strict=True))
        (by_offset, _), rows = each.pop(_BY_OFFSET), [joined(*pair) for pair in each]
        results = function(*rows[:_BY_OFFSET], by_offset, *rows[_BY_OFFSET:])
        return tuple(x.reshape(N, -1, *x.shape[1:]) for x in results), (True,) * len(results)

    return function


@_rows_together
def _forward(
    q: Array, k: Array, v: Array, seen: Array, by_offset: Array | None
) -> tuple[Array, Array]:
    """(out, the logarithm of each softmax's sum [B, H, L])."""

    def call(operands: Arrays, options: tuple[Any, ...], *_: Array) -> tuple[Array, Array]:
        (out, sums), _ = library._dot_product_attention_fwd_rule(*operands, *options, True)
        return out, sums

    return _masked(call, q, k, v, seen, by_offset)


@_rows_together
def _backward(
    q: Array,
    k: Array,
    v: Array,
    seen: Array,
    by_offset: Array | None,
    sums: Array,
    out: Array,
    change: Array,
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v."""

    def call(
        operands: Arrays, options: tuple[Any, ...], sums: Array, out: Array, change: Array
    ) -> tuple[Array, Array, Array]:
        kept = *operands, sums, out
        return library._dot_product_attention_bwd_rule(*options, False, kept, change)[:3]

    return _masked(call, q, k, v, seen, by_offset, sums, out, change)


def _masked(
    call: Callable[..., tuple[Array, ...]],
    q: Array,
    k: Array,
    v: Array,
    seen: Array,
    by_offset: Array | None,
    *others: Array,
) -> tuple[Array, ...]:
    """`call(operands, options, *others)`, with the mask as a number of keys wherever it is one."""
    bias = None if by_offset is None else toeplitz(by_offset, q.shape[2]).astype(q.dtype)

    def by_mask(q: Array, k: Array, v: Array, seen: Array, *others: Array) -> tuple[Array, ...]:
        mask = jnp.where(seen, 0.0, _MASKED).astype(q.dtype)[:, None]
        alike = jnp.zeros((1, 1, q.shape[2], 1), q.dtype) if bias is None else bias
        return call(*_operands(q, k, v, alike + mask), *others)

    def by_length(q: Array, k: Array, v: Array, seen: Array, *others: Array) -> tuple[Array, ...]:
        keys = jnp.maximum(jnp.sum(seen[:, 0], axis=-1, dtype=jnp.int32), 1)
        return call(*_operands(q, k, v, bias, keys), *others)

    if seen.shape[1] > 1:
        return by_mask(q, k, v, seen, *others)
    keys = jnp.sum(seen, axis=-1, keepdims=True)
    are_first = jnp.all((jnp.arange(seen.shape[2])[None, None, :] < keys) == seen)
    return jax.lax.cond(are_first, by_length, by_mask, q, k, v, seen, *others)


def _operands(
    q: Array, k: Array, v: Array, bias: Array | None, keys_B: Array | None = None
) -> tuple[Arrays, tuple[Any, ...]]:
    """What cuDNN's primitives are given, and their parameters; `keys` are each row's first ones."""
    nothing, has_bias, wants_its_gradient = jnp.zeros(0, q.dtype), bias is not None, False
    lengths = [nothing, nothing]
    if keys_B is not None:
        lengths = [jnp.full_like(keys_B, q.shape[2]), keys_B]
    options = (
        1.0,  # queries come scaled
        0,  # the seed of dropout, of which there is
        0.0,
        (has_bias, wants_its_gradient),
        library.MaskType.NO_MASK if keys_B is None else library.MaskType.PADDING,
        library.AttentionLayout.BNTH.value,
        None,  # no window
        library.check_cudnn_version(),
    )
    packed_rows_and_pages = [nothing] * 4
    return (q, k, v, bias if has_bias else nothing, *lengths, *packed_rows_and_pages), options
