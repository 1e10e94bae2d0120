"""From examples to arrays of token ids, cut to fit and padded to one of a few lengths.

A batch holds numpy arrays under T5X's names:

    encoder_input_tokens   [B, T]   0 at padding, every row ends in EOS (id 1)
    decoder_input_tokens   [B, L]   the targets shifted right by one, starting with 0
    decoder_target_tokens  [B, L]
    decoder_loss_weights   [B, L]   1 at target tokens (EOS included), 0 at padding

where T and L are the batch's bucket: the smallest of a few lengths that holds its longest row.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from prompt_tuning_jax.data.task import Example
from prompt_tuning_jax.vocabularies import Vocabulary

Tokens = list[int]
Batch = dict[str, np.ndarray]

INPUT_BUCKETS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
TARGET_BUCKETS = (8, 16, 32, 64, 128, 256, 512, 1024)


def bucket_lengths(maximum: int, lengths: Sequence[int]) -> tuple[int, ...]:
    """The lengths below `maximum`, and `maximum` itself.

    >>> bucket_lengths(100, INPUT_BUCKETS)
    (32, 48, 64, 96, 100)
    """
    if maximum < 1:
        raise ValueError(f"A sequence length must be at least 1, not {maximum}.")
    return (*sorted(length for length in set(lengths) if length < maximum), maximum)


def check_distinct(labels: Iterable[str], vocabulary: Vocabulary, limit: int | None = None) -> None:
    """Refuses labels that a model cannot tell apart: characters it does not know look all alike.

    Args:
      limit: the longest target in tokens, EOS included.

    Raises:
      ValueError: two labels have the same tokens, whole or cut to `limit`.
    """
    seen: dict[tuple[int, ...], str] = {}
    for label in labels:
        ids = vocabulary.encode(label)
        cut = ids if limit is None else ids[: limit - 1]
        other = seen.setdefault(tuple(cut), label)
        if other != label:
            when = f" when cut to {limit}" if len(cut) < len(ids) else ""
            raise ValueError(
                f"The labels {other!r} and {label!r} are the same tokens to this model{when}: "
                "choose words that its vocabulary tells apart."
            )


class Encoder:
    """Examples -> token ids within `lengths`, counting what it had to cut.

    Text is encoded and closed with EOS. Arrays of ids are taken as they are: a source that makes
    them has already decided about EOS. A sequence that is too long loses tokens before its EOS,
    never the EOS itself, so that the model still sees where an input ends.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        lengths: Mapping[str, int],
        buckets: Mapping[str, Sequence[int]] | None = None,
    ):
        buckets = buckets or {}
        self.vocabulary = vocabulary
        self.lengths = {"inputs": lengths["inputs"], "targets": lengths["targets"]}
        self.buckets = {
            "inputs": bucket_lengths(lengths["inputs"], buckets.get("inputs", INPUT_BUCKETS)),
            "targets": bucket_lengths(lengths["targets"], buckets.get("targets", TARGET_BUCKETS)),
        }
        self.truncated = {"inputs": 0, "targets": 0}

    def __call__(self, example: Example, feature: str) -> Tokens:
        tokens, is_cut = self.encode(example, feature)
        self.truncated[feature] += is_cut
        return tokens

    def encode(self, example: Example, feature: str) -> tuple[Tokens, bool]:
        """The ids, and whether they had to be cut, which is not counted here."""
        if feature not in example:
            raise ValueError(
                f"An example has no {feature!r} field; its fields are {list(example)}."
            )
        value, eos, limit = example[feature], self.vocabulary.eos_id, self.lengths[feature]
        if isinstance(value, str):
            tokens = [*self.vocabulary.encode(value), eos]
        else:
            tokens = np.asarray(value).tolist()
        if not tokens:
            raise ValueError(f"An example's {feature!r} holds no token ids: {dict(example)}.")
        if len(tokens) <= limit:
            return tokens, False
        return [*tokens[: limit - 1], eos] if tokens[-1] == eos else tokens[:limit], True

    def bucket(self, length: int, feature: str) -> int:
        """The smallest bucket that holds `length` tokens."""
        return self.buckets[feature][bisect.bisect_left(self.buckets[feature], length)]


def encoder_features(inputs: Sequence[Tokens], batch_size: int, length: int) -> Batch:
    """The encoder's part of a batch [batch_size, length]; rows beyond `inputs` are all 0."""
    return {"encoder_input_tokens": _pad(inputs, batch_size, length)}


def decoder_features(targets: Sequence[Tokens], batch_size: int, length: int) -> Batch:
    """The decoder's, of targets that each end in EOS."""
    shifted = [[0, *tokens[:-1]] for tokens in targets]
    weights = [[1] * len(tokens) for tokens in targets]
    return {
        "decoder_input_tokens": _pad(shifted, batch_size, length),
        "decoder_target_tokens": _pad(targets, batch_size, length),
        "decoder_loss_weights": _pad(weights, batch_size, length).astype(np.float32),
    }


def _pad(rows: Sequence[Tokens], batch_size: int, length: int) -> np.ndarray:
    """Rows of ids -> [batch_size, length] int32."""
    padded = np.zeros((batch_size, length), np.int32)
    for row, tokens in zip(padded, rows, strict=False):
        row[: len(tokens)] = tokens
    return padded
