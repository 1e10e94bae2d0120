"""The next token of every row, each chosen as its own request says: data, where `search` compiles.

R rows   V vocabulary
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from prompt_tuning_jax.decoding import search

MOST_TOLD = 5  # of the likeliest tokens, for each that is chosen


class Wishes(NamedTuple):
    """How each row's next token is chosen; `requests.Sampling` says what the first six are.

    Attributes:
      group: the first row of the ensemble that a row belongs to; of a row alone, itself.
    """

    temperature: Float[Array, " R"]
    top_k: Int[Array, " R"]
    top_p: Float[Array, " R"]
    seed: UInt32[Array, " R"]
    number: Int[Array, " R"]
    told: Int[Array, " R"]
    group: Int[Array, " R"]

    @classmethod
    def of_nobody(cls, rows: int) -> "Wishes":
        """Those of rows without a request: each alone, the likeliest token, nothing told."""
        whole = np.zeros(rows, np.int32)
        return cls(
            temperature=np.zeros(rows, np.float32),
            top_k=whole.copy(),
            top_p=np.ones(rows, np.float32),
            seed=whole.astype(np.uint32),
            number=whole.copy(),
            told=whole.copy(),
            group=np.arange(rows, dtype=np.int32),
        )


def mean_of_groups(x_RxV: Float[Array, "R V"], group: Int[Array, " R"]) -> Float[Array, "R V"]:
    """The mean over the rows of each group, in all of them; of a row alone, itself."""

    def mean() -> Array:
        rows = len(x_RxV)
        sums_RxV = jax.ops.segment_sum(x_RxV, group, rows)
        sizes_R = jax.ops.segment_sum(jnp.ones(rows, x_RxV.dtype), group, rows)
        return (sums_RxV / jnp.maximum(sizes_R, 1)[:, None])[group]

    are_alone = jnp.all(group == jnp.arange(len(group)))
    return lax.cond(are_alone, lambda: x_RxV, mean)


def likeliest(
    log_probs_RxV: Float[Array, "R V"], wishes: Wishes
) -> tuple[Int[Array, "R K"], Float[Array, "R K"]]:
    """The K likeliest tokens of every row and their log-probabilities, where a row wants any."""
    K = min(MOST_TOLD, log_probs_RxV.shape[-1])

    def found() -> tuple[Array, Array]:
        values_RxK, ids_RxK = lax.top_k(log_probs_RxV, K)
        return ids_RxK.astype(jnp.int32), values_RxK

    def nothing() -> tuple[Array, Array]:
        shape = (len(log_probs_RxV), K)
        return jnp.zeros(shape, jnp.int32), jnp.full(shape, -jnp.inf, log_probs_RxV.dtype)

    return lax.cond(jnp.any(wishes.told > 0), found, nothing)


def choose(
    log_probs_RxV: Float[Array, "R V"], wishes: Wishes, count_R: Int[Array, " R"]
) -> Int[Array, " R"]:
    """The likeliest token where a row's temperature is 0, else one that is drawn.

    What is drawn is what `search.sampler` draws for a row with the key of `text.row_keys`.

    Args:
      count_R: how many tokens each row has.
    """
    greedy_R = jnp.argmax(log_probs_RxV, axis=-1).astype(jnp.int32)
    samples_R = (wishes.temperature > 0) & (wishes.top_k != 1)

    def sampled() -> Array:
        of_request = jax.vmap(lambda seed, number: jax.random.fold_in(jax.random.key(seed), number))
        keys_R = of_request(wishes.seed, wishes.number)
        chosen_R = search.drawn(keys_R, count_R, _warped(log_probs_RxV, wishes))
        return jnp.where(samples_R, chosen_R.astype(jnp.int32), greedy_R)

    return lax.cond(jnp.any(samples_R), sampled, lambda: greedy_R)


def _warped(log_probs_RxV: Float[Array, "R V"], wishes: Wishes) -> Float[Array, "R V"]:
    """`search.warp_logits`, with a temperature, a top k and a top p of each row's own."""
    V = log_probs_RxV.shape[-1]
    temperature_R = jnp.where(wishes.temperature > 0, wishes.temperature, 1.0)
    logits_RxV = log_probs_RxV / temperature_R[:, None]
    descending_RxV = -jnp.sort(-logits_RxV, axis=-1)

    is_some_R = (wishes.top_k > 0) & (wishes.top_k < V)
    last_R = jnp.where(is_some_R, wishes.top_k, V) - 1
    least_Rx1 = jnp.take_along_axis(descending_RxV, last_R[:, None], axis=-1)
    descending_RxV = search.from_least(descending_RxV, least_Rx1)

    # A mass of 1 may be reached before the last token, by rounding.
    top_p_R = jnp.where(wishes.top_p < 1, wishes.top_p, jnp.inf)
    least_Rx1 = jnp.maximum(least_Rx1, search.least_of_mass(descending_RxV, top_p_R[:, None]))
    return search.from_least(logits_RxV, least_Rx1)
