"""A prompt of one frozen model for another, without training (Lester et al. 2022, recycling).

import prompt_tuning_jax as pt
recycled = pt.recycle("bundled_topic", "bundled", "my_other_model")
pt.save_prompt("prompts/topic_recycled", recycled)

Pieces that both vocabularies have stand for the same in both models, so a map is fitted from the
one's embeddings of them to the other's, and the prompt's rows go through it. It is a beginning and
often no more: whether it is any good for a task, an evaluation says.
"""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.settings.setting import PathLike
from prompt_tuning_jax.training.transfer.embedding_maps import MAPS, EmbeddingMap, relative_error
from prompt_tuning_jax.tuned_prompt import FINGERPRINT, OF_TASK, VOCABULARY, TunedPrompt
from prompt_tuning_jax.vocabularies import Vocabulary

HELD_OUT = 10  # every tenth piece is kept out of the fit, to see how well it carries over
USELESS = 0.98  # of held-out pieces' variance
LEAST = 2 * HELD_OUT  # pieces in common


class SharedPieces(NamedTuple):
    """Ids of the pieces that two vocabularies have in common, the most frequent first."""

    source: Int[np.ndarray, " n"]
    target: Int[np.ndarray, " n"]


def shared_pieces(source: Vocabulary, target: Vocabulary, most: int | None = None) -> SharedPieces:
    """By their text, in the order of the source's ids, which vocabularies number by frequency.

    Special tokens are left out: what they stand for is each model's own.

    Args:
      most: how many to take; None for all.
    """
    theirs = _pieces(target)
    pairs = [(i, theirs[piece]) for piece, i in _pieces(source).items() if piece in theirs]
    ids = np.array(sorted(pairs)[:most], np.int64).reshape(-1, 2)
    return SharedPieces(ids[:, 0], ids[:, 1])


def _pieces(vocabulary: Vocabulary) -> dict[str, int]:
    """Piece -> its lowest id."""
    special = {*vocabulary.special, *vocabulary.prefix, *vocabulary.suffix}
    special |= {vocabulary.sentinel(i) for i in range(vocabulary.extra_ids)}
    found: dict[str, int] = {}
    for token in range(vocabulary.pieces):
        if token not in special:
            found.setdefault(vocabulary.id_to_piece(token), token)
    return found


def recycle(
    prompt: TunedPrompt | PathLike,
    model: FrozenModel | str | Path,
    target_model: FrozenModel | str | Path,
    *,
    embedding_map: str = "linear",
    intercept: bool = False,
    pieces: int | None = None,
    seed: int = 0,
    allow_prompt_mismatch: bool = False,
) -> TunedPrompt:
    """A prompt [P, D] of `model` as one [P, D'] of `target_model`.

    Its metadata names the target, and as `recycled` what was done: the map, how many pieces it was
    fitted on, and its error on them and on others, as a share of their variance (1: no better than
    their mean).

    Args:
      prompt: see `load_prompt`.
      model, target_model: whose prompt it is, and for which it is wanted; see `load_model`.
      embedding_map: "linear", by least squares, or "network", one of two layers.
      intercept: of the linear map.
      pieces: fit on so many of the most frequent that both have; None for all.
      seed: of the network.
      allow_prompt_mismatch: take a prompt that was tuned for another model than `model`.

    Raises:
      FileNotFoundError: there is no such prompt or model.
      ValueError: no such map; a prompt that is not the model's; a model without a vocabulary, or
        vocabularies with too few pieces in common.
    """
    _check_settings(embedding_map, pieces, intercept)
    tuned = prompt if isinstance(prompt, TunedPrompt) else load_prompt(prompt)
    source = model if isinstance(model, FrozenModel) else load_model(model)
    target = target_model if isinstance(target_model, FrozenModel) else load_model(target_model)
    source.check(tuned, allow_prompt_mismatch)
    shared = shared_pieces(
        source.text_vocabulary("compare"), target.text_vocabulary("compare"), pieces
    )
    _check_common(source, target, len(shared.source))
    rows = _rows(source, shared.source), _rows(target, shared.target)
    chosen, errors = fit(*rows, embedding_map, intercept, seed)
    _warn_of_nothing_carried(source, target, errors["held_out_error"])
    done = {
        "from_prompt": None if isinstance(prompt, TunedPrompt) else str(prompt),
        "from_model": source.name,
        "from_fingerprint": source.fingerprint,
        "embedding_map": embedding_map,
        "intercept": intercept if embedding_map == "linear" else None,
        "pieces": len(shared.source),
        **errors,
    }
    facts: dict[str, Any] = {k: x for k, x in tuned.metadata.items() if k in OF_TASK}
    facts |= {
        "base_model": target.name,
        FINGERPRINT: target.identity["fingerprint"],
        VOCABULARY: target.identity["vocabulary_hash"],
        "recycled": {name: fact for name, fact in done.items() if fact is not None},
    }
    return TunedPrompt(chosen(tuned.values), tuned.layout, facts, tuned.visibility)


def _check_settings(embedding_map: str, pieces: int | None, intercept: bool) -> None:
    if embedding_map not in MAPS:
        known = ", ".join(MAPS)
        raise ValueError(f"{spelled('embedding_map')} is one of {known}, not {embedding_map!r}.")
    if pieces is not None and pieces < LEAST:
        raise ValueError(f"{spelled('pieces', pieces)}: a map is fitted on at least {LEAST}.")
    if intercept and embedding_map != "linear":
        raise ValueError(f"{spelled('intercept')} is of a linear map: leave it out.")


def _check_common(source: FrozenModel, target: FrozenModel, pieces: int) -> None:
    if pieces < LEAST:
        raise ValueError(
            f"The vocabularies of {source.name} and {target.name} have {pieces} pieces in common; "
            f"a map between them needs at least {LEAST}."
        )


def _warn_of_nothing_carried(source: FrozenModel, target: FrozenModel, error: float) -> None:
    if error >= USELESS:
        warnings.warn(
            "The map carries nothing over: on pieces that it was not fitted on its error is "
            f"{error:.2f} of their variance, and the mean's is 1. {source.name} and {target.name} "
            "have little in common, and nor will the prompt.",
            stacklevel=3,
        )


def _rows(model: FrozenModel, ids: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n D"]:
    return np.asarray(model.embeddings[ids], np.float32)


def fit(
    source: Float[np.ndarray, "n D"],
    target: Float[np.ndarray, "n E"],
    embedding_map: str,
    intercept: bool,
    seed: int,
) -> tuple[EmbeddingMap, dict[str, float]]:
    """A map fitted on nine of ten rows; its error on them, and on those held out."""
    out = np.arange(len(source)) % HELD_OUT == HELD_OUT - 1
    chosen = MAPS[embedding_map](source[~out], target[~out], intercept=intercept, seed=seed)
    parts = {"fit_error": ~out, "held_out_error": out}
    return chosen, {
        name: relative_error(chosen(source[rows]), target[rows]) for name, rows in parts.items()
    }
