"""A large batch in the memory of a small one: parts of it in turn, their results summed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_microbatches(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """`function` of (trainable, frozen, batch, key), its results summed over parts of the batch.

    A part is every `count`-th row, so that it is spread over the devices as the batch is, whose
    rows divide by their number times `count`. Each part has a dropout key of its own.
    """
    if count == 1:
        return function

    def summed(trainable: Any, frozen: Any, batch: Any, key: Any) -> Any:
        def result(i: Any, part: Any) -> Any:
            return function(
                trainable, frozen, part, None if key is None else jax.random.fold_in(key, i)
            )

        def add(sums: Any, each: Any) -> Any:
            return jax.tree.map(jnp.add, sums, result(*each)), None

        parts = jax.tree.map(lambda x: _parts(x, count), batch)
        shapes = jax.eval_shape(lambda: result(0, jax.tree.map(lambda x: x[0], parts)))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, (jnp.arange(count), parts))[0]

    return summed


def _parts(x: jax.Array, count: int) -> jax.Array:
    """[B, ...] as [count, B / count, ...]."""
    return jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)
