"""What a model's files forbid or demand of the tokens it generates, one step at a time.

The definitions are those of transformers' logits processors. A step of `search` becomes one whose
log-probabilities are constrained:

    step, cache = constrained(next_scores, cache, Constraints(no_repeat_ngram=3), ...)

The tokens so far travel in the cache, so that greedy search, sampling and beams need know nothing
of this. Of an encoder-decoder they are the start token and what was generated; where targets go on
from an input, the input's own tokens (a prompt's rows have none) and what was generated.

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
      no_repeat_ngram: no n-gram of this size comes twice among the tokens so far; 0 for no limit.
      encoder_no_repeat_ngram: none of the input's n-grams of this size comes; 0 for no limit.
      repetition_penalty: the logits of the tokens so far are divided by this, or multiplied where
        they are negative; 1.0 for none.
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
      history: the tokens so far, the newest of every row in one column.
      came: True at them; what stands elsewhere is arbitrary.
      count: how many columns of `history` are behind, the newest token's included.
      index: how many tokens have been generated.
      input: the input's tokens, without a prompt, padding at the end.
      is_input: False at padding.
    """

    history: Int[Array, "B W"]
    came: Bool[Array, "B W"]
    count: Int[Array, ""]
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
    max_length: int,
    before: tuple[Int[Array, "B W"], Bool[Array, "B W"]],
    inputs: tuple[Int[Array, "B S"], Bool[Array, "B S"]],
    batch_axis: int = 0,
) -> tuple[Step, Cache]:
    """A step of `search` whose log-probabilities are constrained, and the cache it starts with.

    Args:
      of_logits: penalties are of logits, as transformers has them in greedy search and sampling; or
        else of log-probabilities, as it has them in beam search.
      before: the tokens before the first that is generated, padding in front, and False at padding;
        what the search begins with (the start token) counts only if it is among them.
      inputs: the input's tokens without a prompt, padding at the end, and False at padding.
      batch_axis: of the leaves of `cache`.
    """
    before_batch, places = (None,) * batch_axis, before[0].shape[1]
    history = jnp.pad(before[0], ((0, 0), (0, max_length)))
    is_token_BxW = jnp.pad(before[1], ((0, 0), (0, max_length)), constant_values=True)
    start = {"own": cache, "history": history[before_batch], "index": jnp.int32(0)}

    def step(cache, tokens_B):
        index = cache["index"]
        newest = places - 1 + index
        # What the search begins with is none of the tokens, or is there already.
        generated = jnp.where(index == 0, cache["history"][..., newest], tokens_B[before_batch])
        history = cache["history"].at[..., newest].set(generated)
        log_probs_BxV, log_z_B, own = next_scores(cache["own"], tokens_B)
        came_BxW = is_token_BxW & (jnp.arange(history.shape[-1])[None, :] <= newest)
        now = Situation(history[(0,) * batch_axis], came_BxW, newest + 1, index, *inputs)
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
        came_BxV = _among(now.history, now.came, vocab_size)
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
        banned_BxV |= _completed(now, now.history, now.came, size, vocab_size)
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
    newest, are_tokens_Bx1 = _newest(now, size - 1)
    last_BxN = tokens_BxW[:, size - 1 :]
    matches_BxN = is_there_BxW[:, size - 1 :] & are_tokens_Bx1
    for i in range(size - 1):
        same_BxN = tokens_BxW[:, i : i + count] == newest[:, i : i + 1]
        matches_BxN &= same_BxN & is_there_BxW[:, i : i + count]
    return _among(last_BxN, matches_BxN, vocab_size)


def _ended(
    now: Situation, sequences_NxW: Int[np.ndarray, "N W"], vocab_size: int
) -> Bool[Array, "B V"]:
    """True at tokens that would complete one of the sequences, all of one length."""
    size = sequences_NxW.shape[1]
    newest, are_tokens_Bx1 = _newest(now, size - 1)
    matches_BxN = jnp.all(newest[:, None, :] == sequences_NxW[None, :, :-1], axis=-1)
    matches_BxN &= are_tokens_Bx1
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


def _newest(now: Situation, count: int) -> tuple[Int[Array, "B {count}"], Bool[Array, "B 1"]]:
    """The last `count` tokens so far, and whether there are so many."""
    tokens, came = (
        lax.dynamic_slice_in_dim(x, now.count - count, count, axis=1)
        for x in (now.history, now.came)
    )
    return tokens, jnp.all(came, axis=1, keepdims=True)


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
