"""The loss of a retrieval step, as a function of what trains."""

import jax
import jax.numpy as jnp

from prompt_tuning_jax.embedding import EmbeddingModel
from prompt_tuning_jax.methods.assemble import folded
from prompt_tuning_jax.params import PROMPT_NAME, unflatten
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.retrieval.contrastive import contrastive_losses
from prompt_tuning_jax.training.step_types import DeviceBatch, Gradients, Key, Params

OF_LOSS = ("documents", "allowed")


def retrieval_gradients(config: TrainConfig, model: EmbeddingModel) -> Gradients:
    """Of the loss, with respect to what trains; from (trainable, frozen, batch, key)."""
    temperature, pool_prompt = config.contrastive_temperature, config.pool_prompt

    def loss_fn(
        trainable: Params, frozen: Params, batch: DeviceBatch, key: Key | None
    ) -> tuple[jax.Array, jax.Array]:
        """The loss summed over queries, and their number."""
        del key  # nothing is dropped
        flat = folded({**frozen, **trainable})
        prompt = flat.pop(PROMPT_NAME, None)
        tokens = {name: x for name, x in batch.items() if name not in OF_LOSS}
        vectors = model.embedded(unflatten(flat), prompt, tokens, pool_prompt)
        documents = batch.get("documents")
        if documents is None:  # their tokens are below those of the queries
            vectors, documents = jnp.split(vectors, [len(batch["allowed"])])
        losses = contrastive_losses(vectors, documents, batch["allowed"], temperature)
        return losses.sum(), jnp.float32(losses.size)

    return jax.value_and_grad(loss_fn, has_aux=True)
