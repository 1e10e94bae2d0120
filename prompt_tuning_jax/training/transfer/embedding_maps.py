"""Maps from one model's embedding space into another's, fitted on rows that stand for the same.

Each is fitted by a function of rows [n, D] and [n, E], and maps [P, D] to [P, E].
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

EmbeddingMap = Callable[[Float[np.ndarray, "P D"]], Float[np.ndarray, "P E"]]

HIDDEN = 4  # times the wider of the two
STEPS, BATCH, RATE = 2000, 256, 1e-3


class Fit(Protocol):
    """How a map is fitted."""

    def __call__(
        self,
        source: Float[np.ndarray, "n D"],
        target: Float[np.ndarray, "n E"],
        *,
        intercept: bool,
        seed: int,
    ) -> EmbeddingMap:
        """The map that takes each row of `source` nearest to that of `target`."""


def relative_error(found: Float[np.ndarray, "n E"], wanted: Float[np.ndarray, "n E"]) -> float:
    """Squared error as a share of the variance of what is wanted; 1 is the mean's."""
    wanted = wanted.astype(np.float64)
    variance = np.square(wanted - wanted.mean(axis=0)).sum()
    return float(np.square(found - wanted).sum() / variance) if variance else 0.0


def fit_linear(
    source: Float[np.ndarray, "n D"],
    target: Float[np.ndarray, "n E"],
    *,
    intercept: bool,
    seed: int,
) -> EmbeddingMap:
    """x W, or x W + b: least squares, the smallest W where several are as good."""
    del seed
    shape = source.shape[1], target.shape[1]
    rows = source.astype(np.float64)
    if intercept:
        rows = np.column_stack([rows, np.ones(len(rows))])
    solution, *_ = np.linalg.lstsq(rows, target.astype(np.float64))
    weights, offset = solution[: shape[0]], solution[shape[0] :].sum(axis=0)

    def apply(values: Float[np.ndarray, "P D"]) -> Float[np.ndarray, "P E"]:
        return np.asarray(values.astype(np.float64) @ weights + offset, np.float32)

    return apply


def fit_network(
    source: Float[np.ndarray, "n D"],
    target: Float[np.ndarray, "n E"],
    *,
    intercept: bool,
    seed: int,
) -> EmbeddingMap:
    """Two layers with a ReLU between them, of coordinates that are scaled to a variance of 1."""
    del intercept  # it has one
    (x, x_mean, x_scale), (y, y_mean, y_scale) = _scaled(source), _scaled(target)
    inputs, outputs = x.shape[1], y.shape[1]
    hidden = HIDDEN * max(inputs, outputs)
    first, second, batches = jax.random.split(jax.random.key(seed), 3)
    weights = {
        "hidden": jax.random.normal(first, (inputs, hidden)) * float(np.sqrt(2 / inputs)),
        "hidden_bias": jnp.zeros((1, hidden)),
        "out": jax.random.normal(second, (hidden, outputs)) / float(np.sqrt(hidden)),
        "out_bias": jnp.zeros((1, outputs)),
    }
    weights = _descend(weights, jnp.asarray(x), jnp.asarray(y), batches)

    def apply(values: Float[np.ndarray, "P D"]) -> Float[np.ndarray, "P E"]:
        scaled = jnp.asarray((values - x_mean) / x_scale, jnp.float32)
        return np.asarray(np.asarray(_network(weights, scaled)) * y_scale + y_mean, np.float32)

    return apply


def _scaled(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Around 0, with a mean variance of 1; what was taken away, and divided by."""
    mean = rows.mean(axis=0)
    scale = float(np.sqrt(np.square(rows - mean).mean())) or 1.0
    return (rows - mean) / scale, mean, scale


def _network(weights: Mapping[str, Array], x_BxD: Float[Array, "B D"]) -> Float[Array, "B E"]:
    hidden_BxH = jax.nn.relu(x_BxD @ weights["hidden"] + weights["hidden_bias"])
    return hidden_BxH @ weights["out"] + weights["out_bias"]


@jax.jit
def _descend(
    weights: Mapping[str, Array],
    x_NxD: Float[Array, "N D"],
    y_NxE: Float[Array, "N E"],
    key: jax.Array,
) -> Mapping[str, Array]:
    """STEPS of Adam at a rate that falls to 0, on batches drawn at random."""
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def loss(weights: Mapping[str, Array], rows: Array) -> Array:
        return jnp.square(_network(weights, x_NxD[rows]) - y_NxE[rows]).mean()

    def step(carried: tuple, key: jax.Array) -> tuple[tuple, None]:
        weights, state = carried
        rows = jax.random.randint(key, (min(BATCH, len(x_NxD)),), 0, len(x_NxD))
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
            updates, state = optimizer.update(jax.grad(loss)(weights, rows), state, weights)
        return (optax.apply_updates(weights, updates), state), None

    (weights, _), _ = jax.lax.scan(
        step, (weights, optimizer.init(weights)), jax.random.split(key, STEPS)
    )
    return weights


MAPS: Mapping[str, Fit] = {"linear": fit_linear, "network": fit_network}
