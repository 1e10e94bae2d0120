"""The leaves of a run's adapter before its first step, and what cannot train so."""

from collections.abc import Mapping
from typing import Any

import jax

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.initializers import Initializer, sampled_vocabulary
from prompt_tuning_jax.methods import wayward
from prompt_tuning_jax.methods.adapters import choice
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.causal import CausalConfig
from prompt_tuning_jax.params import flatten, is_of_prompt, unflatten
from prompt_tuning_jax.settings.parts.method import BOTH
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.step_types import Params

USUAL = "prefix", "full"
SPELLED = {"lora": "lora_targets", "prefix": "prefix_stack"}


def with_adapter(
    config: TrainConfig, model: FrozenModel, params: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Nested parameters with the leaves among them that the run's method trains.

    Raises:
      ValueError: this model cannot have them.
    """
    flat = flatten(params)
    if taken := choice.leaves_of(flat):
        raise ValueError(
            f"The model given has an adapter already ({next(iter(taken))}, ...): train on the "
            "model without it."
        )
    if config.adapter is None:
        return params
    check_model(config, model)
    return unflatten(flat | adapter_leaves(config, flat, model.embeddings))


def adapter_leaves(config: TrainConfig, shapes: Mapping[str, Any], table: jax.Array) -> Params:
    """The leaves of the run's method, as its seed has them begin, for a network of these weights.

    Args:
      table: of embeddings [V, D].

    Raises:
      ValueError: this network cannot have them.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 2)  # others than a prompt's numbers
    return leaves_at_start(config, shapes, key, sampled_vocabulary(table))


def leaves_at_start(
    config: TrainConfig, shapes: Mapping[str, Any], key: jax.Array, sample: Initializer
) -> Params:
    """The leaves of the run's method for a network of these weights; may be traced.

    Args:
      sample: of the vocabulary.
    """
    try:
        options = config.adapter_options._replace(sample=sample)
        return choice.start(config.adapter, key, shapes, options)
    except ValueError as error:
        name = SPELLED.get(config.adapter, "method")
        raise ValueError(f"{spelled(name, getattr(config, name))}: {error}") from error


def check_model(config: TrainConfig, model: FrozenModel) -> None:
    """Refuses a form of the model, or of its data, in which an adapter computes something else."""
    asked = spelled("method", config.method)
    if config.method == BOTH and (config.prompt_layout, config.prompt_visibility) != USUAL:
        raise ValueError(
            f"{asked} has its prompts before the input and before the targets: leave out "
            f"{spelled('prompt_layout')} and {spelled('prompt_visibility')}."
        )
    if config.adapter == "decoder_prompt" and config.pack:
        raise ValueError(
            f"{asked} stands before whole rows of targets: leave out {spelled('pack', True)}."
        )
    if model.config.scan_layers:
        raise ValueError(
            f"{asked} changes each layer by itself: leave out {spelled('scan_layers', True)}."
        )
    if config.adapter == "prefix" and config.pack and not isinstance(model.config, CausalConfig):
        raise ValueError(
            f"{asked} stands right before every example, which examples of a packed row do not: "
            f"leave out {spelled('pack', True)}."
        )


def check_adapter_trains(config: TrainConfig, trainable: Params) -> None:
    """Refuses rules by which other weights train than an adapter's, or none of its leaves."""
    if wayward.NAME in trainable:
        raise ValueError(
            f"{spelled('trainable')}: a rule matches {wayward.NAME!r}, the text that stays as it "
            "is: name what is to train more closely."
        )
    if config.adapter is None:
        return
    mine = choice.METHODS[config.adapter].TRAINABLE
    trained = [name for name in trainable if not is_of_prompt(name)]
    others = [name for name in trained if name.rpartition("/")[2] not in mine]
    if others or not trained:
        raise ValueError(
            f"{spelled('trainable')}: with {spelled('method', config.adapter)} leaves called "
            f"{' and '.join(mine)} train and nothing else, but the rules match "
            f"{others[0] if others else 'none of them'}."
        )
