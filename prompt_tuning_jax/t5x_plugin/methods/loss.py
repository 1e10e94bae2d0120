"""A model of T5X's with another loss; whatever else T5X asks of it is the model's own."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

Batch = Mapping[str, jax.Array]


class Loss(Protocol):
    """(model, parameters, batch, dropout key or None) -> (loss, T5X's metrics)."""

    def __call__(
        self, model: Any, params: Any, batch: Batch, dropout_rng: jax.Array | None
    ) -> tuple[jax.Array, Mapping[str, Any]]: ...


class WithLoss:
    """`model`, trained and evaluated by `loss`."""

    def __init__(self, model: Any, loss: Loss):
        self._model, self._loss = model, loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def loss_fn(
        self, params: Any, batch: Batch, dropout_rng: jax.Array | None
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        return self._loss(self._model, params, batch, dropout_rng)

    def eval_fn(self, params: Any, batch: Batch) -> tuple[jax.Array, Mapping[str, Any]]:
        return self._loss(self._model, params, batch, None)
