"""A frozen network with a prompt among its parameters: its logits for a batch.

The functions here may be traced; `model.FrozenModel` and the training step are made of them.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.models.t5 import T5Config, Transformer
from prompt_tuning_jax.prompts import Prompt, PromptBank


@functools.lru_cache
def network_for(config: T5Config, prompt_shape: tuple[int, ...] | None) -> Transformer:
    """The network, one object for equal arguments so that compiled programs are reused.

    Args:
      prompt_shape: [P, D], [N, P, D] for a bank, or None.
    """
    if prompt_shape is None:
        return Transformer(config)
    *bank, length, _ = prompt_shape
    if not bank:
        return Transformer(config, prompt=functools.partial(Prompt, length=length))
    make_bank = functools.partial(PromptBank, num_prompts=bank[0], length=length)
    return Transformer(config, prompt=make_bank)


def with_prompt(params: Mapping[str, Any], values: Any) -> dict[str, Any]:
    """`params` with the prompt at `encoder/prompt/prompt`; nothing is copied."""
    return {**params, "encoder": {**params["encoder"], "prompt": {"prompt": values}}}


def prompt_of(params: Mapping[str, Any]) -> Any | None:
    """The prompt inside `params`, or None."""
    return params["encoder"].get("prompt", {}).get("prompt")


def join_shared(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """`params` with a shared prompt and the task's own behind it as one prompt [P0 + P, D]."""
    leaves = params["encoder"].get("prompt", {})
    if "shared" not in leaves:
        return params
    return with_prompt(params, jnp.concatenate([leaves["shared"], leaves["prompt"]]))


def bind(
    config: T5Config, params: Mapping[str, Any], batch: Mapping[str, Any], layout: str
) -> tuple[Transformer, Any, dict[str, Any]]:
    """The network for `params`, its tokens [B, S], and where the prompt's rows sit in them.

    A batch may bring its layout (`prompt_positions` and, for a bank, `prompt_ids`); one that does
    not is laid out by `layout`. Isolated prompts before their inputs need no room among the tokens.
    """
    prompt, tokens = prompt_of(params), batch["encoder_input_tokens"]
    if prompt is None:
        return network_for(config, None), tokens, {}
    network = network_for(config, prompt.shape)
    if "prompt_positions" in batch:
        places = {name: batch.get(name) for name in ("prompt_positions", "prompt_ids")}
        return network, tokens, places
    if "encoder_segment_ids" in batch:
        raise ValueError(
            "Packed rows need prompt_positions, to say where each example's prompt is: make them "
            "with `packing.pack`."
        )
    if config.isolated_prompt and layout == "prefix":
        return network, tokens, {"prompt_ids": batch.get("prompt_ids")}
    tokens, positions = place_prompt(tokens, prompt.shape[-2], layout, config.eos_id)
    return network, tokens, {"prompt_positions": positions}


def apply(
    config: T5Config,
    params: Mapping[str, Any],
    batch: Mapping[str, Any],
    layout: str = "prefix",
    dropout_rng: Any | None = None,
) -> Float[Array, "batch length vocab"]:
    """Logits for a batch with T5X's keys, packed or not; the prompt, if any, is in `params`."""
    params = join_shared(params)
    network, tokens, places = bind(config, params, batch, layout)
    return network.apply(
        {"params": params},
        tokens,
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        batch.get("encoder_segment_ids"),
        batch.get("decoder_segment_ids"),
        **places,
        enable_dropout=dropout_rng is not None,
        rngs=None if dropout_rng is None else {"dropout": dropout_rng},
    )
