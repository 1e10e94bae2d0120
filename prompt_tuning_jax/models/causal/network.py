"""The causal language model: an embedded row through its layers, each the same block.

B batch   L positions   W wanted ones   P prompt length   D embed   V vocabulary
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from prompt_tuning_jax import prompts
from prompt_tuning_jax.models.adapters import PREFIX_KEY, PREFIX_VALUE, prefix_heads
from prompt_tuning_jax.models.causal.attention import (
    Block,
    KeyValue,
    Kind,
    Places,
    attend,
    project_heads,
    taken,
    visible,
)
from prompt_tuning_jax.models.causal.config import CausalConfig
from prompt_tuning_jax.models.causal.layers import Weights, embed, logits, mlp, norm
from prompt_tuning_jax.models.causal.rotary import turning

# A layer's own keys and values, and what it is given -> all those that its queries may see, and
# what is kept of the layer.
Memory = Callable[[KeyValue, Any], tuple[Sequence[Block], Any]]


@dataclasses.dataclass(frozen=True)
class FunctionalNetwork:
    """What decoding takes for a network, of a model that is functions of its config."""

    config: Any


def embedded(
    config: CausalConfig,
    params: Weights,
    tokens: Any,
    positions: Any,
    prompt: Float[Array, "*N P D"] | None = None,
    prompt_positions: Any = None,
    prompt_ids: Any = None,
) -> Float[Array, "B L D"]:
    """Tokens [B, L] as the first layer reads them, the prompt's rows among them."""
    x_BxLxD = embed(config, params["token_embedder"], tokens)
    if prompt is not None:
        # Where the prompt joins the embedded input.
        x_BxLxD = prompts.join(x_BxLxD, prompt, prompt_positions, prompt_ids)
    if config.learned_positions:
        table = params["position_embedder"]["embedding"]
        x_BxLxD = x_BxLxD + table[jnp.maximum(positions, 0)].astype(config.dtype)
    return x_BxLxD


def prefix_length(config: CausalConfig, params: Weights) -> int:
    """How many keys of an adapter stand before all rows; see `models.adapters`."""
    layer = params["decoder"]["layers" if config.scan_layers else "layers_0"]
    prefix = layer["attention"].get(PREFIX_KEY)
    return 0 if prefix is None else prefix.shape[-2]


def prefix_block(config: CausalConfig, weights: Weights) -> list[Block]:
    """An attention's prefix, at the first positions; nothing where there is none."""
    if PREFIX_KEY not in weights:
        return []
    prefix = (
        prefix_heads(weights[name], config.num_kv_heads, config.dtype)
        for name in (PREFIX_KEY, PREFIX_VALUE)
    )
    return [Block(KeyValue(*prefix), Places(jnp.arange(len(weights[PREFIX_KEY]))[None, :]))]


def check_length(config: CausalConfig, length: int) -> None:
    """ValueError where rows are longer than the model's positions go, if they end."""
    if config.length_limit is not None and length > config.length_limit:
        raise ValueError(
            f"Rows have {length} positions, but this model knows only {config.length_limit}: "
            "shorten the inputs, the targets or the prompt."
        )


def block(
    config: CausalConfig,
    x_BxLxD: Float[Array, "B L D"],
    weights: Weights,
    kind: Kind,
    of_layer: Any,
    key: Array | None,
    wanted_BxW: Int[Array, "B W"] | None = None,
    *,
    places: Places,
    memory: Memory,
) -> tuple[Float[Array, "B LorW D"], Any]:
    """A layer: attention and an MLP; each adds to its input what it makes of the normed input.

    Args:
      wanted_BxW: the positions that anything is wanted of; None: all.
    """
    drop = functools.partial(dropout, config.dropout_rate)

    # Self-attention block.
    y_BxLxD = norm(config, x_BxLxD, weights["pre_attention_norm"])
    q_BxHxLxK, own = project_heads(config, y_BxLxD, weights["attention"], places.positions, kind)
    seen, kept = memory(own, of_layer)
    if wanted_BxW is not None:
        x_BxLxD = _taken(x_BxLxD, wanted_BxW)
        q_BxHxLxK = jnp.take_along_axis(q_BxHxLxK, wanted_BxW[:, None, :, None], axis=2)
        places = taken(places, wanted_BxW)
    seen = [*prefix_block(config, weights["attention"]), *seen]
    blocks = [(kv, visible(places, keys, kind.window, config.bidirectional)) for kv, keys in seen]
    y_BxLxD = attend(config, q_BxHxLxK, blocks, weights["attention"])
    if config.post_norms:
        y_BxLxD = norm(config, y_BxLxD, weights["post_attention_norm"])
    x_BxLxD = x_BxLxD + drop(y_BxLxD, key, 0)

    # MLP block.
    y_BxLxD = norm(config, x_BxLxD, weights["pre_mlp_norm"])
    y_BxLxD = mlp(config, y_BxLxD, weights["mlp"])
    if config.post_norms:
        y_BxLxD = norm(config, y_BxLxD, weights["post_mlp_norm"])
    return x_BxLxD + drop(y_BxLxD, key, 1), kept


def through(
    config: CausalConfig,
    params: Weights,
    x_BxLxD: Float[Array, "B L D"],
    places: Places,
    memory: Memory,
    per_layer: Any = None,
    wanted_BxW: Int[Array, "B W"] | None = None,
    dropout_rng: Array | None = None,
) -> tuple[Float[Array, "B LorW D"], Any]:
    """The layers, one after the other.

    Args:
      wanted_BxW: the positions whose x is returned; the last layer works for them alone.
      per_layer: what `memory` gets of each layer, as in `each_layer`.

    Returns:
      (x after the last layer, what `memory` kept of each, in the form of `per_layer`).
    """
    step = functools.partial(block, config, places=places, memory=memory)
    last = functools.partial(step, wanted_BxW=wanted_BxW)
    x_BxLxD, kept = each_layer(
        config, step, last, params["decoder"], x_BxLxD, per_layer, dropout_rng
    )
    if config.scan_layers and wanted_BxW is not None:
        x_BxLxD = _taken(x_BxLxD, wanted_BxW)
    return x_BxLxD, kept


def each_layer(
    config: CausalConfig,
    step: Callable[..., tuple[Array, Any]],
    last: Callable[..., tuple[Array, Any]],
    stack: Weights,
    x_BxLxD: Float[Array, "B L D"],
    per_layer: Any,
    dropout_rng: Array | None,
) -> tuple[Float[Array, "B LorW D"], Any]:
    """The layers of a stack, as the config has them: scanned or not, and computed again.

    Args:
      step: (x, weights, kind, of_layer, key) -> (x, what is kept of the layer).
      last: the same for the last layer, unless layers are scanned.
      per_layer: an entry for each layer or, scanned, arrays with a leading layer axis; or None.

    Returns:
      (x after the last layer, what was kept of each, in the form of `per_layer`).
    """
    step, last = (rematerialised(one, config) for one in (step, last))
    kinds = layer_kinds(config)
    keys = None if dropout_rng is None else jax.random.split(dropout_rng, len(kinds))
    if config.scan_layers:
        layers = stack["layers"], stacked(kinds), per_layer, keys
        return jax.lax.scan(lambda x, layer: step(x, *layer), x_BxLxD, layers)
    kept = []
    for i, kind in enumerate(kinds):
        of_layer, key = (None if each is None else each[i] for each in (per_layer, keys))
        one_layer = last if i + 1 == len(kinds) else step
        x_BxLxD, one = one_layer(x_BxLxD, stack[f"layers_{i}"], kind, of_layer, key)
        kept.append(one)
    return x_BxLxD, tuple(kept)


def _taken(x_BxLxD: Float[Array, "B L D"], wanted_BxW: Int[Array, "B W"]) -> Float[Array, "B W D"]:
    return jnp.take_along_axis(x_BxLxD, wanted_BxW[:, :, None], axis=1)


def to_logits(
    config: CausalConfig, params: Weights, x_BxLxD: Float[Array, "B L D"]
) -> Float[Array, "B L V"]:
    """The final norm and the output layer."""
    return logits(config, params, norm(config, x_BxLxD, params["decoder"]["decoder_norm"]))


@functools.lru_cache
def layer_kinds(config: CausalConfig) -> tuple[Kind, ...]:
    """What the layers differ in, as data; None where it is for no layer of the model."""
    windows = [layer.window for layer in config.layers]
    turns = any(layer.rotary for layer in config.layers)
    unlimited = None if all(w is None for w in windows) or not config.scan_layers else 2**30
    return tuple(
        Kind(
            unlimited if layer.window is None else layer.window,
            turning(layer.rotary, config.head_dim) if turns else None,
        )
        for layer in config.layers
    )


def stacked(kinds: Sequence[Kind]) -> Kind:
    """The kinds of scanned layers, as one."""
    return jax.tree.map(lambda *each: jnp.asarray(np.stack(each)), *kinds)


def rematerialised(step: Callable[..., Any], config: CausalConfig) -> Callable[..., Any]:
    """`step`, computed again in the backward pass as `remat_policy` says."""
    if config.remat_policy == "none":
        return step
    saved = jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims
    return jax.checkpoint(
        step,
        policy=saved if config.remat_policy == "minimal" else None,
        prevent_cse=not config.scan_layers,
    )


def dropout(rate: float, x: Array, key: Array | None, number: int) -> Array:
    """x with a share of its entries dropped and the others larger; x itself without a key."""
    if key is None or not rate:
        return x
    kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))
