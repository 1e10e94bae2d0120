"""What a model answers: generated text, or a ranking of given labels.

Inputs are read once (`family.start_decoding`); generation then runs the decoder one
token at a time on a key/value cache. The algorithms themselves are in `search.py`.

    B batch   S joined length   L generated or target length   V vocabulary   C labels
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.decoding import search
from prompt_tuning_jax.decoding.constraints import constrained
from prompt_tuning_jax.decoding.options import GenerationSettings
from prompt_tuning_jax.devices.memory import check_fits
from prompt_tuning_jax.models.family import NetworkConfig, family_of, start_decoding

# decode(tokens [B, L], cache=None, max_decode_length=None), as `family.start_decoding` returns it.
Decode = Callable[..., tuple[Float[Array, "B L V"], Any]]


def generate_tokens(
    transformer: nn.Module,
    params: Any,
    encoder_input_tokens: Int[Array, "B S"],
    *,
    length_penalty: float = 0.0,
    rng: Array | None = None,
    prompt_positions: Int[Array, "B S"] | None = None,
    prompt_ids: Int[Array, " B *S"] | None = None,
    members: int = 1,
    return_all_beams: bool = False,
    **settings: Any,
) -> tuple[Int[Array, "inputs *beams L"], Float[Array, " inputs *beams"]]:
    """Generates up to `max_length` tokens for every row: greedily, by beam search or by sampling.

    Compiles once for each transformer, set of shapes and settings; equal transformers count as one.

    Args:
      transformer, params: a `t5.network.Transformer` and its parameters.
      encoder_input_tokens: token ids, `pad_id` at padding (and at prompt positions, if given).
      length_penalty: see `DecodingOptions`.
      rng: for sampling: one key, or a key for each row [B], which makes what a row draws
        independent of its place in the batch.
      prompt_positions: where the prompt's rows sit; None lets the network put them first.
      prompt_ids: which prompt of a bank each row (or position) uses.
      members: how many consecutive rows are one input under the prompts of an ensemble, which
        choose every token by their mean log-probability and get one row of the results.
      return_all_beams: return all hypotheses, best first, instead of the best.
      settings: the fields of `GenerationSettings`.

    Returns:
      Tokens [B, L], without the start token and `pad_id` after EOS, and scores [B], from the
      model's own probabilities even when sampling changed them, but as penalties leave them and
      with 0 for a token that is forced. With `return_all_beams`, [B, beams, L] and [B, beams];
      hypotheses that a tiny vocabulary cannot provide are padding and score -inf.

    Raises:
      ValueError: a setting out of range, or settings that contradict each other.
    """
    how, rows = GenerationSettings(**settings), len(encoder_input_tokens)
    how.check()
    if members < 1 or rows % members:
        raise ValueError(f"{rows} rows are not whole ensembles of {members} members.")
    if how.samples and rng is None:
        raise ValueError("Sampling needs a random key: pass rng=jax.random.key(seed).")
    tokens, scores = _generate(
        transformer,
        params,
        jnp.asarray(encoder_input_tokens),
        {"prompt_positions": prompt_positions, "prompt_ids": prompt_ids},
        _row_keys(rng, rows // members) if how.samples else None,
        float(length_penalty),
        members=int(members),
        how=how.of_model(transformer.config),
    )
    return (tokens, scores) if return_all_beams else (tokens[:, 0], scores[:, 0])


def rank(
    transformer: nn.Module,
    params: Any,
    encoder_input_tokens: Int[Array, "B S"],
    label_tokens: Int[Array, "C L"],
    *,
    prompt_positions: Int[Array, "B S"] | None = None,
    prompt_ids: Int[Array, " B *S"] | None = None,
) -> Float[Array, "B C"]:
    """Scores every label for every input: the sum of its tokens' log-probabilities, EOS included.

    The input is encoded once, however many labels there are.

    Args:
      label_tokens: a label in each row, ending in EOS and then padded with `pad_id`.
      (the others as in `generate_tokens`)

    Raises:
      ValueError: a label does not end in EOS.
    """
    labels = np.asarray(label_tokens)
    _check_labels(labels, transformer.config)
    return _rank(
        transformer,
        params,
        jnp.asarray(encoder_input_tokens),
        {"prompt_positions": prompt_positions, "prompt_ids": prompt_ids},
        labels,
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames=("members", "how"))
def _generate(
    transformer, params, encoder_input_tokens, prompts, keys, length_penalty, *, members, how
):
    config = transformer.config
    decode = start_decoding(transformer, params, encoder_input_tokens, prompts)
    batch, max_length = len(encoder_input_tokens) // members, how.max_length
    batch_axis = family_of(config).cache_axis(config)
    limits = {
        "batch": batch,
        "max_length": max_length,
        "eos_id": how.eos_ids,
        "start_id": how.start_id,
        "pad_id": config.pad_id,
        "length_penalty": length_penalty,
    }

    def next_scores(cache, tokens_B):
        cache = _join_members(cache, batch_axis)
        tokens_BNx1 = jnp.repeat(tokens_B, members)[:, None]
        logits_BNx1xV, cache = decode(tokens_BNx1, cache=cache, max_decode_length=max_length)
        logits_BNxV = logits_BNx1xV[:, 0]
        log_probs_BNxV = jax.nn.log_softmax(logits_BNxV)
        log_probs_BxV = log_probs_BNxV.reshape(batch, members, -1).mean(axis=1)
        log_z_B = (logits_BNxV - log_probs_BNxV)[:, 0].reshape(batch, members).mean(axis=1)
        return log_probs_BxV, log_z_B, _split_members(cache, members, batch_axis)

    def step(cache, tokens_B):
        log_probs_BxV, _, cache = next_scores(cache, tokens_B)
        return log_probs_BxV, cache

    cache = _split_members(empty_cache(decode, batch * members, max_length), members, batch_axis)
    what = f"max_length={max_length}, beams={how.beams} and {batch} rows at once"
    check_fits(cache, how.beams, what)
    if how.constraints:
        own = own_tokens(encoder_input_tokens, prompts["prompt_positions"], config.pad_id)
        step, cache = constrained(
            next_scores,
            cache,
            how.constraints,
            of_logits=how.beams == 1,
            eos_ids=how.eos_ids,
            max_length=max_length,
            **known(*(x[::members] for x in own), how.start_id, config.continues_inputs),
            batch_axis=batch_axis,
        )
    if how.beams > 1:
        return search.beam_search(
            search.over_beams(step, cache, batch_axis),
            cache,
            beams=how.beams,
            late_finishers=how.late_finishers,
            early_stopping=how.early_stopping,
            batch_axis=batch_axis,
            **limits,
        )
    choose = search.greedy
    if how.samples:
        choose = search.sampler(keys, how.temperature, how.top_k, how.top_p)
    tokens, scores = search.one_sequence(step, cache, choose, **limits)
    return tokens[:, None], scores[:, None]


def own_tokens(
    tokens: Int[Array, "B S"], prompt_positions: Int[Array, "B S"] | None, pad_id: int
) -> tuple[Int[Array, "B S"], Bool[Array, "B S"]]:
    """Each input's own tokens without its prompt, padding at the end, and where they are."""
    is_own = tokens != pad_id
    if prompt_positions is not None:
        is_own &= prompt_positions < 0
    return _ordered(tokens, is_own, ~is_own)


def known(
    tokens: Int[Array, "B S"], is_own: Bool[Array, "B S"], start_id: int, continues_inputs: bool
) -> dict[str, tuple[Array, Array]]:
    """The inputs, and before what is generated: they, padding in front, or the start token."""
    one_a_row = (len(tokens), 1)
    before = jnp.full(one_a_row, start_id, jnp.int32), jnp.ones(one_a_row, bool)
    if continues_inputs:
        before = _ordered(tokens, is_own, is_own)
    return {"inputs": (tokens, is_own), "before": before}


def _ordered(tokens, is_own, later):
    """Both in another order: what is not `later` comes first, and else all stays as it is."""
    order = jnp.argsort(later, axis=1, stable=True)
    return tuple(jnp.take_along_axis(x, order, axis=1) for x in (tokens, is_own))


@functools.partial(jax.jit, static_argnums=0)
def _rank(transformer, params, encoder_input_tokens, prompts, labels_CxL):
    decode = start_decoding(transformer, params, encoder_input_tokens, prompts)

    def score(label_L):
        shape = len(encoder_input_tokens), len(label_L)
        labels_BxL = jnp.broadcast_to(label_L[None, :], shape)
        return label_log_probs(decode, labels_BxL, transformer.config)

    return jax.vmap(score, out_axes=1)(labels_CxL)


def label_log_probs(
    decode: Decode, labels_BxL: Int[Array, "B L"], config: NetworkConfig
) -> Float[Array, " B"]:
    """The log-probability of each input's label, which ends in EOS and then is padded."""
    inputs_BxL = jnp.pad(labels_BxL, ((0, 0), (1, 0)), constant_values=config.start_id)[:, :-1]
    log_probs_BxLxV = jax.nn.log_softmax(decode(inputs_BxL)[0])
    log_probs_BxL = jnp.take_along_axis(log_probs_BxLxV, labels_BxL[..., None], -1)[..., 0]
    return jnp.sum(jnp.where(labels_BxL != config.pad_id, log_probs_BxL, 0.0), axis=-1)


def empty_cache(decode: Decode, batch: int, max_length: int) -> Any:
    """Room for `max_length` tokens of each of `batch` inputs."""
    tokens = jax.ShapeDtypeStruct((batch, max_length), jnp.int32)
    _, shapes = jax.eval_shape(functools.partial(decode, max_decode_length=max_length), tokens)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _split_members(cache, members, axis):
    """[B * N, ...] -> [B, N, ...] at `axis` of every leaf: a search moves whole ensembles."""

    def split(leaf):
        return leaf.reshape(*leaf.shape[:axis], -1, members, *leaf.shape[axis + 1 :])

    return jax.tree.map(lambda leaf: split(leaf) if leaf.ndim > axis else leaf, cache)


def _join_members(cache, axis):
    """The inverse of `_split_members`."""

    def join(leaf):
        return leaf.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 2 :])

    return jax.tree.map(lambda leaf: join(leaf) if leaf.ndim > axis else leaf, cache)


def _row_keys(rng, batch):
    if not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
        rng = jax.random.wrap_key_data(rng)
    if rng.shape not in ((), (batch,)):
        raise ValueError(f"rng must be one key or one for each of {batch} rows, not {rng.shape}.")
    return rng if rng.ndim else jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(batch))


def _check_labels(labels, config):
    if labels.ndim != 2:
        raise ValueError(f"label_tokens must be [labels, length], but have shape {labels.shape}.")
    for number, label in enumerate(labels):
        tokens = label != config.pad_id
        length = np.count_nonzero(tokens)
        if length == 0 or not tokens[:length].all() or label[length - 1] != config.eos_id:
            raise ValueError(
                f"Label {number} is {label.tolist()}: every label must end in EOS "
                f"({config.eos_id}), then be padded with {config.pad_id}."
            )
