"""A large batch in the memory of a small one: parts of it in turn, their results summed."""

import jax
import jax.numpy as jnp

from prompt_tuning_jax.training.step_types import DeviceBatch, Gradients, Key, Params, Summed


def in_microbatches(function: Gradients, count: int) -> Gradients:
    """`function` of (trainable, frozen, batch, key), its results summed over parts of the batch.

    A part is every `count`-th row, so that it is spread over the devices as the batch is, whose
    rows divide by their number times `count`. Each part has a dropout key of its own.
    """
    if count == 1:
        return function

    def summed(trainable: Params, frozen: Params, batch: DeviceBatch, key: Key | None) -> Summed:
        def result(i: jax.Array | int, part: DeviceBatch) -> Summed:
            return function(
                trainable, frozen, part, None if key is None else jax.random.fold_in(key, i)
            )

        def add(sums: Summed, each: tuple[jax.Array, DeviceBatch]) -> tuple[Summed, None]:
            return jax.tree.map(jnp.add, sums, result(*each)), None

        parts = jax.tree.map(lambda x: _parts(x, count), batch)
        shapes = jax.eval_shape(lambda: result(0, jax.tree.map(lambda x: x[0], parts)))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, (jnp.arange(count), parts))[0]

    return summed


def _parts(x: jax.Array, count: int) -> jax.Array:
    """[B, ...] as [count, B / count, ...]."""
    return jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)
