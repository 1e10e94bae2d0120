"""Wayward prompts under T5X (`methods.wayward`): the text's rows are the base checkpoint's."""

import copy
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import seqio

from prompt_tuning_jax.methods import wayward
from prompt_tuning_jax.params import PROMPT_NAME, FlatParams
from prompt_tuning_jax.t5x_plugin.methods.loss import Batch, WithLoss
from prompt_tuning_jax.t5x_plugin.methods.method import Arrays, Facts, Method, PromptStart
from prompt_tuning_jax.t5x_plugin.methods.network import Network
from prompt_tuning_jax.t5x_plugin.start import Table


class Wayward(Method):
    """A prompt, and in the loss `weight` times its squared distance to a text."""

    def __init__(
        self,
        text: str,
        checkpoint: str,
        vocabulary: seqio.Vocabulary,
        batch_size: int,
        weight: float = 0.01,
    ):
        """Reads nothing yet.

        Args:
          checkpoint: the base checkpoint, whose table the text's rows are of.
          vocabulary: the model's.
          batch_size: of an update. Of a part of it, a microbatch, the distance counts as much as
            the part is of the whole, so that it counts once for each update.
        """
        self._text, self._vocabulary = text, vocabulary
        self._table = Table(checkpoint)
        self._batch_size, self._weight = batch_size, weight

    def changed(self, model: Any) -> Any:
        model = copy.copy(model)
        model.module = Network(model.module, model.module, _with_text)
        return WithLoss(model, self._loss)

    def _loss(
        self, model: Any, params: Any, batch: Batch, dropout_rng: jax.Array | None
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        loss, metrics = model.loss_fn(params, batch, dropout_rng)
        share = len(batch["decoder_target_tokens"]) / self._batch_size
        return loss + self._weight * share * wayward.distance(params), metrics

    def start(self, shapes: Mapping[str, tuple[int, ...]], prompt: PromptStart) -> Arrays:
        length = shapes[PROMPT_NAME][0]
        rows = wayward.rows_of(self._text, self._table, self._vocabulary, length)
        return super().start(shapes, prompt) | {wayward.NAME: np.asarray(rows)}

    def write(self, leaves: Arrays, facts: Facts) -> None:
        facts.write_prompt(leaves[PROMPT_NAME])


def _with_text(key: jax.Array, params: FlatParams) -> FlatParams:
    """The text has a place; its rows come when the run starts."""
    return params | {wayward.NAME: jnp.zeros_like(params[PROMPT_NAME])}
