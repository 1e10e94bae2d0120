"""A prompt in front of its rows. It sees nothing of them, so it is computed once, for all of them.

What stands at its positions is the same in every row: the prompts [N, P, D] go through the layers
by themselves, and the rows see the keys and values of theirs. Without dropout the numbers are those
of rows with the prompt in them; with it, all rows of a prompt share one draw.

B batch   N prompts   P prompt length   W targets   G heads of keys   K head dim   D embed
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax import prompts
from prompt_tuning_jax.models.causal import network
from prompt_tuning_jax.models.causal.attention import Block, KeyValue, Places
from prompt_tuning_jax.models.causal.config import CausalConfig


class Front(NamedTuple):
    """What rows see of the prompt in front of them.

    Attributes:
      layers: of each layer keys and values [N, G, P, K], in the form of `network.through`.
      last: [N, D], the prompt's last row after the last layer.
      places: of its rows, [1, P].
      ids: [B], which prompt each row has; None: there is one.
    """

    layers: Any
    last: Float[Array, "N D"]
    places: Places
    ids: Int[Array, " B"] | None

    def block(self, of_layer: KeyValue) -> Block:
        """A layer's keys and values, each row's or, of one prompt, those of all rows."""
        if self.ids is not None:
            of_layer = KeyValue(*(x[self.ids] for x in of_layer))
        return Block(of_layer, self.places)

    def where_no_text(
        self, x_BxWxD: Float[Array, "B W D"], has_text_BxW: Bool[Array, "B W"]
    ) -> Float[Array, "B W D"]:
        """x, or what the prompt ends with where there is no text between it and the target."""
        last = self.last[jnp.zeros(len(x_BxWxD), jnp.int32) if self.ids is None else self.ids]
        return jnp.where(has_text_BxW[:, :, None], x_BxWxD, last[:, None])


def through(
    config: CausalConfig,
    params: Mapping[str, Any],
    prompt: Float[Array, "*N P D"],
    ids: Int[Array, " B"] | None,
    dropout_rng: Array | None = None,
) -> Front:
    """One prompt, or the prompts of a bank, through the layers.

    Raises:
      ValueError: a bank without `ids`, or prompts of another width than the model's.
    """
    N, P, _ = prompts.checked_bank(prompt, config.emb_dim, ids).shape
    first = network.prefix_length(config, params)
    rows_1xP = jnp.arange(P)[None, :]
    places = Places(first + rows_1xP)
    x_NxPxD = network.embedded(
        config,
        params,
        jnp.zeros((N, P), jnp.int32),
        places.positions,
        prompt,
        prompt_positions=jnp.broadcast_to(rows_1xP, (N, P)),
        prompt_ids=jnp.arange(N),
    )
    last_Nx1 = jnp.full((N, 1), P - 1)

    def memory(own: KeyValue, _: Any) -> tuple[list[Block], KeyValue]:
        return [Block(own, places)], own

    x_Nx1xD, layers = network.through(
        config, params, x_NxPxD, places, memory, wanted_BxW=last_Nx1, dropout_rng=dropout_rng
    )
    return Front(layers, x_Nx1xD[:, 0], places, ids if N > 1 else None)
