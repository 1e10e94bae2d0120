"""What is said, as a run begins, of the form in which attention is computed."""

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.layout import needs_no_room
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.attention.choice import (
    Choice,
    Shape,
    active_mesh,
    choose,
    platform_of,
)
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.settings.task_config import lengths_of
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.train_step import network_config


def chosen_form(config: TrainConfig, model: FrozenModel) -> str | None:
    """Such as "attention: fused in rows of 612 (tpu)"; None for a model without a choice.

    That of the encoder's longest rows: shorter ones may take another.
    """
    network = network_config(config, model)
    if not isinstance(network, T5Config) or network.encoder_attention != "full":
        return None
    inputs = lengths_of(config.feature_lengths)["inputs"]
    keys = inputs + (config.prompt_length or 0)
    queries = inputs if needs_no_room(config.prompt_layout, config.prompt_visibility) else keys
    rows = config.batch_size // config.microbatches
    shape = Shape(rows, network.num_heads, queries, keys, network.head_dim)
    with sharding.active(model.mesh):
        platform = platform_of(active_mesh())
    choice = choose(network.attention, network.attention_chunk, shape, network.dtype, platform)
    return f"attention: {_told(choice)} in rows of {queries} ({platform})"


def _told(choice: Choice) -> str:
    return f"{choice.at_once} queries at a time" if choice.form == "chunked" else choice.form
