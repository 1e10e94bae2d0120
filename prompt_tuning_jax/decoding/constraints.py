"""What a model's files forbid or demand of the tokens it generates, one step at a time.

The definitions are those of transformers' logits processors. A step of `search` becomes one whose
log-probabilities are constrained:

    step, cache = constrained(next_scores, cache, Constraints(no_repeat_ngram=3), ...)

The tokens so far, the start token first, travel in the cache, so that greedy search, sampling and
beams need know nothing of this.

B batch   V vocabulary   L greatest length   S input length   W places in a row
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.decoding.search import Cache, Step

# A step that also gives log Z, by which log-probabilities differ from the network's logits.
NextScores = Callable[[Cache, Array], tuple[Float[Array, "B V"], Float[Array, " B"], Cache]]


@dataclasses.dataclass(frozen=True)
class Constraints:
    """Nothing is constrained by default. A length counts generated tokens, without the start token.

    Attributes:
      forced_first: the token that every text begins with.
      forced_last: the tokens of which one ends a text that reaches the greatest length.
      min_length: so many tokens come before the first that may end the text.
      no_repeat_ngram: no n-gram of this size comes twice; 0 for no limit.
      encoder_no_repeat_ngram: none of the input's n-grams of this size comes; 0 for no limit.
      repetition_penalty: the logits of tokens that came before are divided by this, or multiplied
        where they are negative; 1.0 for none.
      encoder_repetition_penalty: the same for the input's tokens, with 1 / penalty.
      banned: sequences of tokens that must not come.
      banned_first: tokens that must not come first (after one that is forced there).
      length_decay: (start, factor): from that length on, the logits x of tokens that end a text
        grow by |x| (factor^(length - start) - 1).
      renormalized: whether the probabilities of what is left are made to sum to 1 again.
    """

    forced_first: int | None = None
    forced_last: tuple[int, ...] = ()
    min_length: int = 0
    no_repeat_ngram: int = 0
    encoder_no_repeat_ngram: int = 0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    banned: tuple[tuple[int, ...], ...] = ()
    banned_first: tuple[int, ...] = ()
    length_decay: tuple[int, float] | None = None
    renormalized: bool = False

    def __bool__(self) -> bool:
        return self != UNCONSTRAINED

    @property
    def penalise(self) -> bool:
        """Whether scores are changed, not only forbidden."""
        penalties = (self.repetition_penalty, self.encoder_repetition_penalty)
        return penalties != (1.0, 1.0) or self.length_decay is not None


UNCONSTRAINED = Constraints()


class Situation(NamedTuple):
    """What constraints look at, beside the scores.

    Attributes:
      history: the tokens so far, the start token first; what lies beyond them is arbitrary.
      index: how many of them have been generated.
      input: the input's tokens, without a prompt, the row's padding at the end.
      is_input: False at padding.
    """

    history: Int[Array, "B L+1"]
    index: Int[Array, ""]
    input: Int[Array, "B S"]
    is_input: Bool[Array, "B S"]


def constrained(
    next_scores: NextScores,
    cache: Cache,
    constraints: Constraints,
    *,
    of_logits: bool,
    eos_ids: Sequence[int],
    start_id: int,
    max_length: int,
    inputs: tuple[Int[Array, "B S"], Bool[Array, "B S"]],
    batch_axis: int = 0,
) -> tuple[Step, Cache]:
    """A step of `search` whose log-probabilities are constrained, and the cache it starts with.

    Args:
      of_logits: penalties are of logits, as transformers has them in greedy search and sampling; or
        else of log-probabilities, as it has them in beam search.
      inputs: the input's tokens without a prompt, padding at the end, and False at padding.
      batch_axis: of the leaves of `cache`.
    """
    before_batch = (None,) * batch_axis
    history = jnp.full((len(inputs[0]), max_length + 1), start_id, jnp.int32)
    start = {"own": cache, "history": history[before_batch], "index": jnp.int32(0)}

    def step(cache, tokens_B):
        index = cache["index"]
        history = cache["history"].at[..., index].set(tokens_B[before_batch])
        log_probs_BxV, log_z_B, own = next_scores(cache["own"], tokens_B)
        now = Situation(history[(0,) * batch_axis], index, *inputs)
        if constraints.penalise:
            offset_Bx1 = log_z_B[:, None] if of_logits else 0.0
            logits_BxV = _penalised(constraints, log_probs_BxV + offset_Bx1, now, eos_ids)
            log_probs_BxV = logits_BxV - offset_Bx1
        is_banned_BxV = _banned(constraints, now, eos_ids, log_probs_BxV.shape[-1])
        log_probs_BxV = jnp.where(is_banned_BxV, -jnp.inf, log_probs_BxV)
        log_probs_BxV = _forced(constraints, log_probs_BxV, index, max_length)
        if constraints.renormalized:
            log_probs_BxV = jax.nn.log_softmax(log_probs_BxV)
        return log_probs_BxV, {"own": own, "history": history, "index": index + 1}

    return step, start


def _penalised(
    constraints: Constraints, x_BxV: Float[Array, "B V"], now: Situation, eos_ids: Sequence[int]
) -> Float[Array, "B V"]:
    """Logits (or log-probabilities) that are made smaller or larger, and not forbidden."""
    vocab_size = x_BxV.shape[-1]

    def scaled(x_BxV, is_meant_BxV, penalty):
        smaller_BxV = jnp.where(x_BxV < 0, x_BxV * penalty, x_BxV / penalty)
        return jnp.where(is_meant_BxV, smaller_BxV, x_BxV)

    if constraints.encoder_repetition_penalty != 1.0:
        in_input_BxV = _among(now.input, now.is_input, vocab_size)
        x_BxV = scaled(x_BxV, in_input_BxV, 1 / constraints.encoder_repetition_penalty)
    if constraints.repetition_penalty != 1.0:
        came_1xW = jnp.arange(now.history.shape[1])[None, :] <= now.index
        came_BxV = _among(now.history, jnp.broadcast_to(came_1xW, now.history.shape), vocab_size)
        x_BxV = scaled(x_BxV, came_BxV, constraints.repetition_penalty)
    if constraints.length_decay is not None:
        start, factor = constraints.length_decay
        growth = factor ** jnp.maximum(now.index - start, 0).astype(jnp.float32) - 1
        is_eos_1xV = _these(eos_ids, vocab_size)[None, :]
        x_BxV = jnp.where(is_eos_1xV, x_BxV + jnp.abs(x_BxV) * growth, x_BxV)
    return x_BxV


def _banned(
    constraints: Constraints, now: Situation, eos_ids: Sequence[int], vocab_size: int
) -> Bool[Array, "#B V"]:
    """True at the tokens that must not come next."""
    single = [tokens[0] for tokens in constraints.banned if len(tokens) == 1]
    banned_BxV = jnp.asarray(_these(single, vocab_size))[None, :]
    if constraints.banned_first:
        first = int(constraints.forced_first is not None)
        these_1xV = _these(constraints.banned_first, vocab_size)[None, :]
        banned_BxV |= these_1xV & (now.index == first)
    if constraints.min_length:
        is_eos_1xV = _these(eos_ids, vocab_size)[None, :]
        banned_BxV |= is_eos_1xV & (now.index < constraints.min_length)
    if size := constraints.no_repeat_ngram:
        ends_W = np.arange(now.history.shape[1])
        came_BxW = jnp.broadcast_to((ends_W <= now.index)[None, :], now.history.shape)
        banned_BxV |= _completed(now, now.history, came_BxW, size, vocab_size)
    if size := constraints.encoder_no_repeat_ngram:
        banned_BxV |= _completed(now, now.input, now.is_input, size, vocab_size)
    for size, sequences in _by_size(constraints.banned).items():
        if 1 < size <= now.history.shape[1]:
            banned_BxV |= _ended(now, np.array(sequences), vocab_size)
    return banned_BxV


def _completed(
    now: Situation,
    tokens_BxW: Int[Array, "B W"],
    is_there_BxW: Bool[Array, "B W"],
    size: int,
    vocab_size: int,
) -> Bool[Array, "B V"]:
    """True at tokens that would make an n-gram of `tokens` out of the last n - 1 so far."""
    count = tokens_BxW.shape[1] - size + 1
    if count < 1 or size > now.history.shape[1]:
        return jnp.zeros((len(tokens_BxW), vocab_size), bool)
    newest = _newest(now, size - 1)
    last_BxN = tokens_BxW[:, size - 1 :]
    matches_BxN = is_there_BxW[:, size - 1 :] & (now.index + 1 >= size - 1)
    for i in range(size - 1):
        matches_BxN &= tokens_BxW[:, i : i + count] == newest[:, i : i + 1]
    return _among(last_BxN, matches_BxN, vocab_size)


def _ended(
    now: Situation, sequences_NxW: Int[np.ndarray, "N W"], vocab_size: int
) -> Bool[Array, "B V"]:
    """True at tokens that would complete one of the sequences, all of one length."""
    size = sequences_NxW.shape[1]
    newest_Bx1xW = _newest(now, size - 1)[:, None, :]
    matches_BxN = jnp.all(newest_Bx1xW == sequences_NxW[None, :, :-1], axis=-1)
    matches_BxN &= now.index + 1 >= size - 1
    last_BxN = jnp.broadcast_to(sequences_NxW[None, :, -1], matches_BxN.shape)
    return _among(last_BxN, matches_BxN, vocab_size)


def _forced(
    constraints: Constraints, log_probs_BxV: Float[Array, "B V"], index: Array, max_length: int
) -> Float[Array, "B V"]:
    """Where tokens are forced, 0 at these and -inf elsewhere."""
    first = () if constraints.forced_first is None else (constraints.forced_first,)
    for forced, when in ((first, 0), (constraints.forced_last, max_length - 1)):
        if forced:
            is_forced_1xV = _these(forced, log_probs_BxV.shape[-1])[None, :]
            only_1xV = jnp.where(is_forced_1xV, 0.0, -jnp.inf)
            log_probs_BxV = jnp.where(index == when, only_1xV, log_probs_BxV)
    return log_probs_BxV


def _newest(now: Situation, count: int) -> Int[Array, "B {count}"]:
    """The last `count` tokens so far; arbitrary where there are fewer."""
    return lax.dynamic_slice_in_dim(now.history, now.index + 1 - count, count, axis=1)


def _among(
    tokens_BxW: Int[Array, "B W"], is_meant_BxW: Bool[Array, "B W"], vocab_size: int
) -> Bool[Array, "B V"]:
    """True at those of the vocabulary's tokens that are among these, where they are meant."""
    rows_Bx1 = jnp.arange(len(tokens_BxW))[:, None]
    none_BxV = jnp.zeros((len(tokens_BxW), vocab_size), bool)
    return none_BxV.at[rows_Bx1, tokens_BxW].max(is_meant_BxW)


def _these(tokens: Iterable[int], vocab_size: int) -> Bool[np.ndarray, " V"]:
    return np.isin(np.arange(vocab_size), list(tokens))


def _by_size(sequences: Iterable[Sequence[int]]) -> dict[int, list[Sequence[int]]]:
    return {n: list(of_n) for n, of_n in itertools.groupby(sorted(sequences, key=len), key=len)}
