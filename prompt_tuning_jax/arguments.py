"""What a model's methods are given from Python, refused where it cannot be meant.

Shapes and dtypes are always looked at; values where they are there, which under `jax.jit` or
`jax.grad` the traced ones are not. An array on several hosts is not fetched for this.
"""

import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import jax
import numpy as np

from prompt_tuning_jax.bounds import (
    BEAMS,
    FEWEST,
    LENGTH_PENALTY,
    REPETITION_PENALTY,
    ROWS,
    SEED,
    TEMPERATURE,
    TOKENS,
    TOP_K,
    TOP_P,
    Z_LOSS,
)
from prompt_tuning_jax.errors import UsageError

_WHOLE = {
    "batch_size": ROWS,
    "max_input_length": TOKENS,
    "max_length": TOKENS,
    "beams": BEAMS,
    "top_k": TOP_K,
    "min_length": FEWEST,
    "no_repeat_ngram": FEWEST,
    "seed": SEED,
}
_FRACTIONS = {
    "length_penalty": LENGTH_PENALTY,
    "temperature": TEMPERATURE,
    "top_p": TOP_P,
    "repetition_penalty": REPETITION_PENALTY,
    "z_loss": Z_LOSS,
}
_REQUIRED = ("batch_size", "max_input_length", "seed", "z_loss")
_INPUTS, _DECODED = "encoder_input_tokens", "decoder_input_tokens"
_TARGETS = "decoder_target_tokens"
# What a batch may hold beside its inputs -> the array that it has the shape of.
_LIKE = {
    "prompt_positions": _INPUTS,
    "encoder_segment_ids": _INPUTS,
    _TARGETS: _DECODED,
    "decoder_loss_weights": _TARGETS,
    "decoder_segment_ids": _DECODED,
}
_OTHERS = ("prompt_ids", *_LIKE)
LOSS_ARRAYS = (_INPUTS, _DECODED, _TARGETS, "decoder_loss_weights")


def check_numbers(**given: Any) -> None:
    """Refuses keywords that are no numbers of their kind, or out of bounds; others pass.

    So does None, where the model's files then say it.

    Raises:
      UsageError: it names the keyword.
    """
    given = {n: value for n, value in given.items() if value is not None or n in _REQUIRED}
    for name, value in given.items():
        if name in _WHOLE:
            check_whole(name, value)
            _WHOLE[name].check(name, value)
        elif name in _FRACTIONS:
            if isinstance(value, bool) or not isinstance(value, Real):
                raise UsageError(f"{name} must be a number, not {value!r}.")
            _FRACTIONS[name].check(name, value)


def check_whole(name: str, value: Any) -> None:
    """Refuses what is no whole number, True and False among them."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(f"{name} must be a whole number, not {value!r}.")


def check_texts(texts: Any, vocab_size: int) -> None:
    """Refuses what is no list of texts, or of lists of token ids, and names the one that is not.

    Raises:
      ValueError: it names the number of the first.
    """
    if isinstance(texts, str | bytes | Mapping) or not hasattr(texts, "__len__"):
        kind = "one string" if isinstance(texts, str | bytes) else f"a {type(texts).__name__}"
        raise ValueError(f"Expected a list of texts, got {kind}: {repr(texts)[:40]}.")
    for number, text in enumerate(texts):
        if not isinstance(text, str) and (fault := _no_ids(text, vocab_size)):
            raise ValueError(
                f"texts[{number}] is {repr(text)[:60]}, {fault}: give a text (an empty one is "
                "''), or a list of token ids."
            )


def check_labels(labels: Sequence[Any]) -> None:
    """Refuses labels that are no texts, with a ValueError that names the first."""
    for number, label in enumerate(labels):
        if not isinstance(label, str):
            raise ValueError(f"verbalizers[{number}] is {label!r}, and no text: write it as text.")


def check_text_numbers(numbers: Any, count: int) -> None:
    """Refuses numbers of texts that are not one for each, from 0 to what a seed may be.

    Raises:
      ValueError: it names the first that is none.
    """
    if len(numbers) != count:
        raise ValueError(f"Got {count} texts but {len(numbers)} numbers of them.")
    for place, number in enumerate(numbers):
        check_whole(f"numbers[{place}]", number)
        SEED.check(f"numbers[{place}]", number)


def _no_ids(item: Any, vocab_size: int) -> str | None:
    """Why an input that is no text is no list of token ids either."""
    if isinstance(item, str | bytes) or not isinstance(item, Sequence | np.ndarray | jax.Array):
        return "and no text"
    if not len(item):
        return "without any token id"
    try:
        ids = np.asarray(item)
    except ValueError:  # lists of several lengths in a list
        return "and not one row of token ids"
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        return "and not one row of whole token ids"
    if ids.min() < 0 or ids.max() >= vocab_size:
        return f"with ids that are not 0 to {vocab_size - 1}"
    return None


def check_batch(
    batch: Mapping[str, Any], vocab_size: int, needed: Sequence[str], prompts: Any = None
) -> None:
    """Refuses a batch whose arrays cannot be meant, alone or together.

    Args:
      vocab_size: V, the rows of the embedding table.
      needed: the arrays that must be there.
      prompts: values of the prompts, [P, D] or [N, P, D], to which a batch may refer.

    Raises:
      ValueError: it names the array.
    """
    if not isinstance(batch, Mapping):
        kind = type(batch).__name__
        raise ValueError(f"A batch is a mapping of {', '.join(needed)}, not a {kind}.")
    for name in needed:
        if name not in batch:
            raise ValueError(f"The batch has no {name}; it needs {', '.join(needed)}.")
    arrays = {
        name: _as_array(batch[name]) for name in (_INPUTS, _DECODED, *_OTHERS) if name in batch
    }
    for name in needed:
        if name.endswith("tokens"):
            _check_tokens(name, arrays[name], vocab_size)
    _check_shapes(arrays)
    _check_weights(arrays.get("decoder_loss_weights"))
    _check_places(arrays, () if prompts is None else np.shape(prompts))


def _as_array(value: Any) -> Any:
    """Lists as an array; what makes none, as one that no check lets through."""
    if hasattr(value, "dtype"):
        return value
    try:
        return np.asarray(value)
    except ValueError:  # lists of several lengths
        return np.asarray(None)


def _check_shapes(arrays: Mapping[str, Any]) -> None:
    """Arrays that belong together have one shape, or as many rows."""
    shapes = {name: array.shape for name, array in arrays.items()}
    inputs = shapes[_INPUTS]
    legal = {name: [shapes[other]] for name, other in _LIKE.items() if other in shapes}
    legal["prompt_ids"] = [inputs, inputs[:1]]
    legal[_DECODED] = [(*inputs[:1], *shapes.get(_DECODED, ())[1:])]
    for name in [name for name in legal if name in shapes]:
        if shapes[name] not in legal[name]:
            like = _LIKE.get(name, _INPUTS)
            raise ValueError(f"{name} is {list(shapes[name])}, but {like} is {list(shapes[like])}.")


def _check_weights(weights: Any) -> None:
    if weights is None:
        return
    kinds = (np.floating, np.integer, np.bool_)
    is_real = any(jax.dtypes.issubdtype(weights.dtype, kind) for kind in kinds)
    values = _known(weights) if is_real else None
    if not is_real or (values is not None and not np.isfinite(values.astype(np.float64)).all()):
        raise ValueError("decoder_loss_weights must be finite numbers, 0 at padding.")


def _check_places(arrays: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Positions and numbers of prompts are whole, and those of the prompts that there are."""
    for name, least, count in (
        ("prompt_positions", -1, shape[-2] if shape else 0),
        ("prompt_ids", 0, shape[0] if len(shape) == 3 else 1),
    ):
        array = arrays.get(name)
        if array is not None and not jax.dtypes.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{name} must be whole numbers, not {array.dtype}.")
        values = _known(array)
        if values is not None and values.size and not least <= values.min() <= values.max() < count:
            raise ValueError(
                f"{name} must be {least} to {count - 1} with this prompt, but are {values.min()} "
                f"to {values.max()}."
            )


def _check_tokens(name: str, tokens: Any, vocab_size: int) -> None:
    """Refuses what is no [rows, length] of token ids of the vocabulary.

    Raises:
      ValueError: rank, dtype, no length, or an id that the embedding table does not have.
    """
    kind = "" if jax.dtypes.issubdtype(tokens.dtype, np.integer) else f" {tokens.dtype}"
    if kind or tokens.ndim != 2 or 0 in tokens.shape[1:]:
        raise ValueError(
            f"{name} must be whole token ids of shape [rows, length], not"
            f"{kind or ''} {list(tokens.shape)}."
        )
    values = _known(tokens)
    if values is not None and values.size and not 0 <= values.min() <= values.max() < vocab_size:
        wrong = values.min() if values.min() < 0 else values.max()
        raise ValueError(f"{name} holds the id {wrong}; this model's are 0 to {vocab_size - 1}.")


def _known(array: Any) -> np.ndarray | None:
    """The values, where they are at hand."""
    if array is None or isinstance(array, jax.core.Tracer):
        return None
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return None
    return np.asarray(array)


def check_is_values(prompt: Any) -> None:
    """Refuses the name or path of a prompt, or several, where its values are expected.

    Raises:
      ValueError: it says what reads them.
    """
    if isinstance(prompt, str | os.PathLike):
        raise ValueError(
            f"Expected a prompt, got its name: pass pt.load_prompt({os.fspath(prompt)!r})."
        )
    several = prompt.values() if isinstance(prompt, Mapping) else prompt
    if isinstance(prompt, Mapping) or (
        isinstance(prompt, list | tuple) and any(isinstance(x, str | os.PathLike) for x in several)
    ):
        raise ValueError(
            "Expected one prompt, got several by name: pass pt.load_bank(...).rows(names), each "
            "input's own prompt, or pt.load_bank(...).ensemble(), all of them together."
        )
