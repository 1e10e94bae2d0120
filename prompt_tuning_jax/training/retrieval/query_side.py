"""What trains of a query side, and where it starts: a prompt, an adapter, or all weights."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from prompt_tuning_jax.checkpoints.quantize import is_quantized
from prompt_tuning_jax.embedding import EmbeddingModel
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.initializers import sampled_vocabulary
from prompt_tuning_jax.models.bert import BertConfig
from prompt_tuning_jax.models.embedding.prompted import check_alone
from prompt_tuning_jax.params import flatten, split_params, unflatten
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training import prompt_start
from prompt_tuning_jax.training.adapters.start import adapter_leaves
from prompt_tuning_jax.training.checks import check_prompt_trains
from prompt_tuning_jax.training.rules import trainable_rules
from prompt_tuning_jax.training.set_up import prompt_leaves
from prompt_tuning_jax.training.step_types import Params


def check_query_side(config: TrainConfig) -> None:
    """Refuses, with a ValueError, settings by which no query side trains."""
    asked = spelled("method", config.method)
    if config.trainable is not None:
        raise ValueError(
            f"With {spelled('task_kind', 'retrieval')} it is {spelled('method')} that says what "
            f"trains: leave {spelled('trainable')} out."
        )
    if config.adapter == "decoder_prompt":
        raise ValueError(f"An embedding model has no decoder: leave {asked} out.")
    if config.input_rows:
        return
    for name, given in (("sides", config.tunes_documents), ("pool_prompt", config.pool_prompt)):
        if given:
            raise ValueError(
                f"{spelled(name, getattr(config, name))} is of a prompt, and what trains here is "
                "the query side's own: leave it out."
            )


def check_network(config: TrainConfig, model: EmbeddingModel) -> None:
    """Refuses, with a ValueError, a model whose query side cannot train so."""
    check_alone(model.adapter)
    network = model.config.network
    asked = spelled("method", config.method)
    if config.adapter == "prefix" and isinstance(network, BertConfig):
        raise ValueError(
            f"{asked}: a BERT has no place for keys that stand before all others: take a prompt, "
            "or lora."
        )
    if config.adapter is not None and getattr(network, "scan_layers", False):
        raise ValueError(f"{asked} changes each layer by itself: give a model without scan_layers.")
    if trains_weights(config) and is_quantized(flatten(model.params)):
        raise ValueError(
            f"With {spelled('model_dtype', 'int8')} only a prompt or an adapter can train: leave "
            "that out."
        )


def trains_weights(config: TrainConfig) -> bool:
    """Whether all weights of the query side train."""
    return not config.input_rows and config.adapter is None


def rows_before(config: TrainConfig) -> int:
    """How many positions of the network what trains takes from a text."""
    return config.prompt_length if config.adapter == "prefix" else config.input_rows


def divided_params(
    config: TrainConfig, model: EmbeddingModel, check: Callable[[Params], None]
) -> tuple[Params, Params]:
    """What trains, and what does not; refuses what cannot train."""
    check_network(config, model)
    trainable, others = split_params(start_params(config, model), trainable_rules(config))
    check_prompt_trains(config.input_rows, others)
    check(trainable)
    return trainable, others


def start_params(config: TrainConfig, model: EmbeddingModel) -> Mapping[str, Any]:
    """The model's weights, and among them what trains, as it begins."""
    flat = flatten(model.params)
    if config.adapter is not None:
        return unflatten(flat | adapter_leaves(config, flat, model.embeddings))
    if not config.input_rows:
        return model.params
    initializer = prompt_start.resolve(
        config.prompt_init, model.embeddings, model.vocabulary, None, model.check
    )
    key = jax.random.key(config.seed)
    prompt = initializer(key, (config.input_rows, model.config.emb_dim))
    leaves = prompt_leaves(config, prompt, key, sampled_vocabulary(model.embeddings))
    return unflatten(flat | leaves)
