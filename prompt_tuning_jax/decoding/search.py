"""Decoding algorithms that know no network: one sequence a row (greedy, sampling), and beam search.

They take a step function,

    step(cache, tokens) -> (log_probs, cache)

which consumes each row's newest token and gives the log-probabilities of the next one. A cache is
any tree of arrays whose first axis is the batch (or `batch_axis`, where others come before it);
scalars in it are shared by all rows. Shapes are fixed, the loop ends early once every row has
finished, and rows never influence each other. In the states below the start token comes first, and
padding after EOS.

    B batch   M beams   V vocabulary
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

Cache = Any
Step = Callable[[Cache, Int[Array, "..."]], tuple[Float[Array, "... V"], Cache]]
Choose = Callable[[Float[Array, "B V"], Int[Array, ""]], Int[Array, " B"]]
# The tokens that end a sequence; most models have one.
EosIds = int | Sequence[int]


class _Rows(NamedTuple):
    """State of `one_sequence`."""

    index: Int[Array, ""]  # tokens generated so far
    tokens: Int[Array, "B L+1"]
    log_prob: Float[Array, " B"]
    length: Int[Array, " B"]
    done: Bool[Array, " B"]
    cache: Cache


def one_sequence(
    step: Step,
    cache: Cache,
    choose: Choose,
    *,
    batch: int,
    max_length: int,
    eos_id: EosIds,
    start_id: int = 0,
    pad_id: int = 0,
    length_penalty: float = 0.0,
) -> tuple[Int[Array, "B L"], Float[Array, " B"]]:
    """Generates one sequence a row, taking `choose(log_probs, index)` as each next token.

    Returns the tokens, `pad_id` after EOS, and sum(log p) / length**length_penalty, EOS counted.
    """

    def unfinished(state: _Rows):
        return (state.index < max_length) & ~jnp.all(state.done)

    def advance(state: _Rows) -> _Rows:
        newest_B = lax.dynamic_index_in_dim(state.tokens, state.index, axis=1, keepdims=False)
        log_probs_BxV, cache = step(state.cache, newest_B)
        chosen_B = choose(log_probs_BxV, state.index).astype(jnp.int32)
        gain_B = jnp.take_along_axis(log_probs_BxV, chosen_B[:, None], axis=1)[:, 0]
        return _Rows(
            index=state.index + 1,
            tokens=state.tokens.at[:, state.index + 1].set(jnp.where(state.done, pad_id, chosen_B)),
            log_prob=state.log_prob + jnp.where(state.done, 0.0, gain_B),
            length=state.length + (~state.done).astype(jnp.int32),
            done=state.done | _ends(chosen_B, eos_id),
            cache=cache,
        )

    start = _Rows(
        index=jnp.int32(0),
        tokens=_started((batch, max_length + 1), start_id, pad_id),
        log_prob=jnp.zeros(batch),
        length=jnp.zeros(batch, jnp.int32),
        done=jnp.zeros(batch, bool),
        cache=cache,
    )
    end = lax.while_loop(unfinished, advance, start)
    return end.tokens[:, 1:], end.log_prob / _scale(end.length, length_penalty)


class _Beams(NamedTuple):
    """State of `beam_search`. Hypotheses stand best first; those that do not exist score -inf."""

    index: Int[Array, ""]
    live_tokens: Int[Array, "B beams L+1"]  # without EOS so far
    live_log_prob: Float[Array, "B beams"]
    finished_tokens: Int[Array, "B beams L+1"]  # ended by EOS or at the greatest length
    finished_score: Float[Array, "B beams"]
    improvable: Bool[Array, " B"]  # a live hypothesis may still beat a finished one
    cache: Cache


def beam_search(
    step: Step,
    cache: Cache,
    *,
    batch: int,
    beams: int,
    max_length: int,
    eos_id: EosIds,
    start_id: int = 0,
    pad_id: int = 0,
    length_penalty: float = 0.0,
    late_finishers: bool = False,
    early_stopping: bool | str = False,
    batch_axis: int = 0,
) -> tuple[Int[Array, "B beams L"], Float[Array, "B beams"]]:
    """Finds the `beams` best sequences of every row by sum(log p) / length**length_penalty.

    This is the search of Hugging Face transformers: of the 2 * beams best continuations at each
    step (or more, by `beams` for each further token that ends a sequence), the first `beams` may
    finish (with `late_finishers`, as in T5X, any of them); the best `beams` that do not end live
    on. A row stops as `_may_improve` says.

    `step` sees a beam axis after the batch: tokens [B, M], log_probs [B, M, V], and cache leaves
    [B, M, ...]; the `cache` given here has no such axis yet.
    """
    candidates = beams * (1 + np.size(eos_id))
    may_improve = functools.partial(_may_improve, max_length, length_penalty, early_stopping)

    def unfinished(state: _Beams):
        return (state.index < max_length) & jnp.any(state.improvable)

    def advance(state: _Beams) -> _Beams:
        newest_BxM = lax.dynamic_index_in_dim(state.live_tokens, state.index, 2, keepdims=False)
        log_probs_BxMxV, cache = step(state.cache, newest_BxM)
        totals_BxMxV = state.live_log_prob[:, :, None] + log_probs_BxMxV
        total, flat = lax.top_k(totals_BxMxV.reshape(batch, -1), candidates)
        parent, token = jnp.divmod(flat, log_probs_BxMxV.shape[-1])
        length = state.index + 1
        tokens = _take(state.live_tokens, parent).at[:, :, length].set(token)
        ends = _ends(token, eos_id) | (length == max_length)
        live_log_prob, live = lax.top_k(jnp.where(ends, -jnp.inf, total), beams)
        early = jnp.arange(candidates) < (candidates if late_finishers else beams)
        finishes = ends & early[None, :] & state.improvable[:, None]
        score = jnp.where(finishes, total / _scale(length, length_penalty), -jnp.inf)
        all_scores = jnp.concatenate([state.finished_score, score], axis=1)
        all_tokens = jnp.concatenate([state.finished_tokens, tokens], axis=1)
        finished_score, finished = lax.top_k(all_scores, beams)
        return _Beams(
            index=length,
            live_tokens=_take(tokens, live),
            live_log_prob=live_log_prob,
            finished_tokens=_take(all_tokens, finished),
            finished_score=finished_score,
            improvable=state.improvable & may_improve(live_log_prob, finished_score, length),
            cache=_map_rows(lambda leaf: _take(leaf, _take(parent, live)), cache, batch_axis),
        )

    nothing = _started((batch, beams, max_length + 1), start_id, pad_id)
    end = lax.while_loop(unfinished, advance, _all_alike(cache, nothing, batch_axis))
    return end.finished_tokens[:, :, 1:], end.finished_score


def _may_improve(
    max_length: int,
    length_penalty: float,
    early_stopping: bool | str,
    live_log_prob: Float[Array, "B beams"],
    finished_score: Float[Array, "B beams"],
    length: Int[Array, ""],
) -> Bool[Array, " B"]:
    """Whether a row's best live hypothesis beats the worst of `beams` finished ones.

    It is scored at its present length. With a length penalty above 0 that is a heuristic, for
    scores may still rise with length; "never" scores it at the greatest length then. With True a
    row stops as soon as `beams` have finished.
    """
    best_length = length
    if early_stopping == "never":
        best_length = jnp.where(length_penalty > 0, max_length, length)
    best_live_score = live_log_prob[:, 0] / _scale(best_length, length_penalty)
    beats = best_live_score > finished_score[:, -1]
    return beats & jnp.isneginf(finished_score[:, -1]) if early_stopping is True else beats


def _started(shape: tuple[int, ...], start_id: int, pad_id: int) -> Int[Array, "*rows steps"]:
    """Sequences of the start token alone."""
    return jnp.full(shape, pad_id, jnp.int32).at[..., 0].set(start_id)


def _all_alike(cache: Cache, nothing: Int[Array, "B beams steps"], batch_axis: int) -> _Beams:
    """The first state: every row has one live hypothesis, the empty one, and none has finished."""
    batch, beams, _ = nothing.shape
    return _Beams(
        index=jnp.int32(0),
        live_tokens=nothing,
        live_log_prob=jnp.full((batch, beams), -jnp.inf).at[:, 0].set(0.0),
        finished_tokens=nothing,
        finished_score=jnp.full((batch, beams), -jnp.inf),
        improvable=jnp.ones(batch, bool),
        cache=_map_rows(lambda leaf: jnp.repeat(leaf[:, None], beams, axis=1), cache, batch_axis),
    )


def over_beams(step: Step, cache: Cache, batch_axis: int = 0) -> Step:
    """Makes a step for tokens [B, M] from a step for tokens [B] and the cache it starts with.

    What the step reads beside its arguments, such as the encoded input, is not repeated for beams.
    """
    axes = jax.tree.map(lambda leaf: batch_axis + 1 if leaf.ndim else None, cache)
    return jax.vmap(step, in_axes=(axes, 1), out_axes=(1, axes))


def greedy(log_probs: Float[Array, "B V"], index: Int[Array, ""]) -> Int[Array, " B"]:
    """Chooses the likeliest token."""
    del index
    return jnp.argmax(log_probs, axis=-1)


def sampler(keys: Array, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Choose:
    """Chooses a token from the warped distribution, with one random key a row, [B]."""

    def choose(log_probs_BxV, index):
        return drawn(keys, index, warp_logits(log_probs_BxV, temperature, top_k, top_p))

    return choose


def drawn(keys: Array, index: Int[Array, "*B"], logits: Float[Array, "B V"]) -> Int[Array, " B"]:
    """A token for each row, from softmax(logits).

    Args:
      keys: one for each row.
      index: how many tokens a row has: one number, or each row's own.
    """
    index_axis = 0 if jnp.ndim(index) else None
    step_keys = jax.vmap(jax.random.fold_in, (0, index_axis))(keys, index)
    return jax.vmap(jax.random.categorical)(step_keys, logits)


def warp_logits(
    logits: Float[Array, "B V"], temperature: float, top_k: int = 0, top_p: float = 1.0
) -> Float[Array, "B V"]:
    """Divides by the temperature, then puts -inf outside the top k, then outside the top p.

    Top p keeps the likeliest tokens until their mass reaches p, so always at least one. Tokens that
    tie with the last one kept are kept.
    """
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        logits = from_least(logits, lax.top_k(logits, top_k)[0][:, -1:])
    if top_p < 1.0:
        logits = from_least(logits, least_of_mass(-jnp.sort(-logits, axis=-1), top_p))
    return logits


def least_of_mass(
    descending: Float[Array, "B V"], top_p: float | Float[Array, "B 1"]
) -> Float[Array, "B 1"]:
    """The last of each row's logits, from the likeliest on, before their mass reaches top_p."""
    probs = jax.nn.softmax(descending, axis=-1)
    mass_before = jnp.cumsum(probs, axis=-1) - probs
    kept = jnp.where(mass_before < top_p, descending, jnp.inf)
    return jnp.min(kept, axis=-1, keepdims=True)


def from_least(logits: Float[Array, "B V"], least: Float[Array, "B 1"]) -> Float[Array, "B V"]:
    """-inf for what is below."""
    return jnp.where(logits < least, -jnp.inf, logits)


def _ends(tokens: Int[Array, "..."], eos_id: EosIds) -> Bool[Array, "..."]:
    return jnp.isin(tokens, jnp.atleast_1d(jnp.asarray(eos_id, tokens.dtype)))


def _scale(length: Int[Array, "*B"], length_penalty: float) -> Float[Array, "*B"]:
    return length.astype(jnp.float32) ** length_penalty


def _map_rows(function: Callable, cache: Cache, batch_axis: int) -> Cache:
    for _ in range(batch_axis):
        function = jax.vmap(function)
    return jax.tree.map(lambda leaf: function(leaf) if leaf.ndim else leaf, cache)


def _take(x: Array, beam: Int[Array, "B kept"]) -> Array:
    """x[b, beam[b, k]] for every b and k."""
    return jax.vmap(lambda row, chosen: row[chosen])(x, beam)
