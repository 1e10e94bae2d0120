"""A prompt in front of its rows. It sees nothing of them, so it is computed once, for all of them.

What stands at its positions is the same in every row: the prompts [N, P, D] go through the layers
by themselves, and the rows see the keys and values of theirs. Without dropout the numbers are those
of rows with the prompt in them; with it, all rows of a prompt share one draw. What was computed may
be kept for other rows (`kept`), also of prompts that are shorter than P.

B batch   N prompts   P prompt length   W targets   G heads of keys   K head dim   D embed
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax import prompts
from prompt_tuning_jax.models.causal import network
from prompt_tuning_jax.models.causal.attention import NOWHERE, Block, KeyValue, Places
from prompt_tuning_jax.models.causal.config import CausalConfig


class Front(NamedTuple):
    """What rows see of the prompt in front of them.

    Attributes:
      layers: of each layer keys and values [N, G, P, K], in the form of `network.through`.
      last: [N, D], the prompt's last row after the last layer; None: every row has a text.
      places: of its rows, [1, P], or [B, P] where prompts have lengths of their own.
      end: the position after its last row.
      ids: [B], which prompt each row has; None: there is one.
    """

    layers: Any
    last: Float[Array, "N D"] | None
    places: Places
    end: int | Int[Array, "B 1"]
    ids: Int[Array, " B"] | None

    @property
    def length(self) -> int:
        """P."""
        return self.places.positions.shape[1]

    def block(self, of_layer: KeyValue) -> Block:
        """A layer's keys and values, each row's or, of one prompt, those of all rows."""
        if self.ids is not None:
            of_layer = KeyValue(*(x[self.ids] for x in of_layer))
        return Block(of_layer, self.places)

    def where_no_text(
        self, x_BxWxD: Float[Array, "B W D"], has_text_BxW: Bool[Array, "B W"]
    ) -> Float[Array, "B W D"]:
        """x, or what the prompt ends with where there is no text between it and the target."""
        if self.last is None:
            return x_BxWxD
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
    return Front(layers, x_Nx1xD[:, 0], places, first + P, ids if N > 1 else None)


class Kept(NamedTuple):
    """What was computed of prompts in front, and which of it each row sees.

    Attributes:
      layers: `Front.layers` of N prompts.
      ids: which each row has.
      lengths: of each row's prompt, at most P; 0: it has none.
    """

    layers: Any
    ids: Int[Array, " B"]
    lengths: Int[Array, " B"]


def kept(config: CausalConfig, params: Mapping[str, Any], of_rows: Kept) -> Front:
    """Prompts that went through the layers before."""
    first = network.prefix_length(config, params)
    kv = of_rows.layers if config.scan_layers else of_rows.layers[0]
    rows_1xP, lengths_Bx1 = jnp.arange(kv.keys.shape[-2])[None, :], of_rows.lengths[:, None]
    places = Places(jnp.where(rows_1xP < lengths_Bx1, first + rows_1xP, NOWHERE))
    return Front(of_rows.layers, None, places, first + lengths_Bx1, of_rows.ids)
