"""Which axes of a family's arrays are rows and positions: found by asking it for one more of each.

A family says what it makes of inputs as a tree of arrays (`Family.read`), and what it keeps of
tokens as another. A server puts such rows into tables, whatever the family.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from prompt_tuning_jax.devices import sharding

NONE = -1  # a leaf that has no such axis
Tree = Any


def that_grow(small: Tree, large: Tree) -> Tree:
    """For each leaf, the one axis in which two trees of shapes differ, or `NONE`.

    Raises:
      ValueError: they differ in several.
    """

    def axis(one: Any, other: Any) -> int:
        differ = [
            i
            for i, sizes in enumerate(zip(one.shape, other.shape, strict=True))
            if len(set(sizes)) > 1
        ]
        if len(differ) > 1:
            raise ValueError(f"{one.shape} and {other.shape} differ in several axes.")
        return differ[0] if differ else NONE

    return jax.tree.map(axis, small, large)


def table_of(row: Tree, rows: Tree, count: int) -> Tree:
    """Room for `count` rows like the one of `row`; a leaf without rows gets a value for each."""

    def grown(leaf: Array, axis: int) -> Array:
        if axis == NONE:
            return jnp.broadcast_to(leaf, (count, *leaf.shape))
        return jnp.repeat(leaf, count, axis=axis)

    return jax.tree.map(grown, row, rows)


def split(rows: Tree, mesh: Mesh) -> Tree:
    """Where each leaf is: its rows over the mesh's devices, and on all of them what has none."""
    return jax.tree.map(
        lambda axis: (
            sharding.replicated(mesh) if axis == NONE else sharding.batch_sharding(mesh, axis)
        ),
        rows,
    )


def extended(new: Tree, padding: Tree, rows: Tree, positions: Tree) -> Tree:
    """Rows as long as one of padding alone, behind which there is padding.

    It is as `Family.read` has it: numbers that are whole say so, and those that are real are zeros.
    """

    def longer(values: Array, empty: Array, row: int, position: int) -> Array:
        if position == NONE:
            return values
        if jnp.issubdtype(values.dtype, jnp.floating):
            empty = jnp.zeros_like(empty)
        count = values.shape[max(row, 0)]
        empty = jnp.repeat(empty, count, axis=max(row, 0)).astype(values.dtype)
        return jax.lax.dynamic_update_slice_in_dim(empty, values, 0, axis=position)

    return jax.tree.map(longer, new, padding, rows, positions)


def put(table: Tree, new: Tree, rows: Tree, places: Int[Array, " B"]) -> Tree:
    """A table with rows as long as its own at some places; one that there is not is for nothing.

    Nothing stays of what stood there: a NaN would reach whoever comes next.
    """

    def at(leaf: Array, values: Array, row: int) -> Array:
        index = (slice(None),) * max(row, 0) + (places,)
        return leaf.at[index].set(values.astype(leaf.dtype), mode="drop")

    return jax.tree.map(at, table, new, rows)


def cut(tree: Tree, positions: Tree, count: int) -> Tree:
    """The first `count` positions of each leaf; what has none whole."""

    def shorter(leaf: Array, axis: int) -> Array:
        return leaf if axis == NONE else jax.lax.slice_in_dim(leaf, 0, count, axis=axis)

    return jax.tree.map(shorter, tree, positions)


def first(table: Tree, rows: Tree, count: int) -> Tree:
    """The first `count` rows of a table."""
    return jax.tree.map(
        lambda leaf, axis: jax.lax.slice_in_dim(leaf, 0, count, axis=max(axis, 0)), table, rows
    )


def put_first(table: Tree, new: Tree, rows: Tree) -> Tree:
    """A table with `new` as its first rows."""

    def at(leaf: Array, values: Array, axis: int) -> Array:
        values = values.astype(leaf.dtype)
        return jax.lax.dynamic_update_slice_in_dim(leaf, values, 0, axis=max(axis, 0))

    return jax.tree.map(at, table, new, rows)


# ---- within a map over rows ------------------------------------------------------------------


def mapped(rows: Tree) -> Tree:
    """The axes to map over in a table: its rows', or the first."""
    return jax.tree.map(lambda axis: max(axis, 0), rows)


def with_axis(row: Tree, rows: Tree) -> Tree:
    """A row that was mapped over, as one row."""
    return jax.tree.map(
        lambda leaf, axis: leaf if axis == NONE else jnp.expand_dims(leaf, axis), row, rows
    )


def without_axis(row: Tree, rows: Tree) -> Tree:
    """The inverse of `with_axis`."""
    return jax.tree.map(
        lambda leaf, axis: leaf if axis == NONE else jnp.squeeze(leaf, axis), row, rows
    )
