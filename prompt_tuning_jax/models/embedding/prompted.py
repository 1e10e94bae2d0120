"""The prompts of a call, as an embedding model takes them.

B batch   S tokens and prompt   P prompt length
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from prompt_tuning_jax.banks import PromptSet
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.layout import NO_TOKEN, place_prompts
from prompt_tuning_jax.models.embedding.config import EmbeddingConfig
from prompt_tuning_jax.tuned_prompt import NORMALIZES, POOL_PROMPT, POOLING, QUERY_NAME


def checked(config: EmbeddingConfig, prompts: PromptSet, name: str) -> EmbeddingConfig:
    """The config for some prompts: their rows see what these say.

    Args:
      name: what errors call the model.

    Raises:
      ValueError: prompts of another width, an ensemble, or a visibility that is not for the model.
    """
    if prompts.values is None:
        return config
    if prompts.copies > 1:
        raise ValueError(
            "An ensemble gives each text several vectors: pass bank.rows(names), a prompt for each "
            "text, or embed the texts with one prompt after the other."
        )
    if prompts.values.shape[-1] != config.emb_dim:
        raise ValueError(
            f"A prompt for {name} must be [P, {config.emb_dim}], got "
            f"{list(prompts.values.shape)}; it was made for a model of another width."
        )
    network = config.network
    asked = prompts.visibility or network.prompt_visibility
    seen = network.visibility_in(prompts.layouts, asked)
    network = dataclasses.replace(network, prompt_visibility=seen)
    return dataclasses.replace(config, network=network)


def pooling_facts(config: EmbeddingConfig) -> dict[str, Any]:
    """What a prompt's file says of how the model that it was tuned for makes a vector."""
    return {POOLING: list(config.pooling), NORMALIZES: config.normalizes}


def check_pooling(
    facts: Mapping[str, Any], config: EmbeddingConfig, override: str | None = None
) -> None:
    """Refuses what was tuned for another pooling; a file that says nothing is for any.

    Args:
      facts: the metadata of a prompt, or of an adapter.
      override: how the refusal is overridden; None: by the setting.

    Raises:
      ValueError: pooling, or normalization, differs.
    """
    override = override or f"set {spelled('allow_prompt_mismatch')}"
    for what, ours in pooling_facts(config).items():
        theirs = facts.get(what, ours)
        if theirs != ours:
            raise ValueError(
                f"This query side was tuned for vectors of {what} {_told(theirs)}, and the model "
                f"makes them with {_told(ours)}: load it so, or {override}."
            )


def check_alone(adapter: Any) -> None:
    """Refuses, with a ValueError, to tune the query side of a model that has an adapter."""
    if adapter is not None:
        raise ValueError(
            "This model's query side has an adapter already: give a prompt, or another adapter, to "
            "the model without it."
        )


def _told(fact: Any) -> str:
    return "+".join(map(str, fact)) if isinstance(fact, list) else str(fact)


def counts(prompts: PromptSet, given: bool | None, default: bool) -> bool:
    """Whether the positions of some prompts count in the pooling.

    Args:
      given: what a call says; None: what the prompts' files say, else `default`.

    Raises:
      ValueError: the files say different things.
    """
    if given is not None:
        return given
    said = {bool(one.metadata.get(POOL_PROMPT, default)) for one in prompts.tuned}
    if len(said) > 1:
        raise ValueError(
            f"Some of these prompts count in the pooling and some do not: say {POOL_PROMPT}."
        )
    return said.pop() if said else default


def text_name(prompts: PromptSet, given: str | None) -> str | None:
    """Which of the model's text prompts stands before texts with these prompts.

    Args:
      given: what a call says; None: what the prompts' files say.

    Raises:
      ValueError: the files say different things.
    """
    if given is not None:
        return given
    said = {one.metadata.get(QUERY_NAME) for one in prompts.tuned}
    if len(said) > 1:
        raise ValueError("These prompts were tuned behind different text prompts: say name.")
    return said.pop() if said else None


def placed(
    batch: Mapping[str, Any], prompts: PromptSet, numbers: Int[np.ndarray, " n"], end: int
) -> dict[str, Any]:
    """A batch with room for the prompts, each where it stands in its row.

    Prompts of one length in front of all rows need none: that is what a batch without it says.

    Args:
      numbers: those of the texts in the batch's first rows; later rows are empty.
      end: the id that ends a text.
    """
    tokens_BxT = batch["tokens"]
    ids_B = np.zeros(len(tokens_BxT), np.int32)
    if prompts.ids is not None:
        ids_B[: len(numbers)] = prompts.ids[numbers]
    if set(prompts.layouts) == {"prefix"} and len(set(prompts.lengths)) == 1:
        return {**batch, "prompt_ids": ids_B}
    lengths_B, layouts_B = prompts.lengths[ids_B], prompts.layouts[ids_B]
    room = int(prompts.lengths.max())
    tokens_BxS, positions_BxS = place_prompts(tokens_BxT, lengths_B, layouts_B, room, end, NO_TOKEN)
    where = {"prompt_positions": positions_BxS, "prompt_ids": ids_B}
    return {**batch, "tokens": tokens_BxS, **where}
