"""From examples to arrays of token ids, cut to fit and padded to one of a few lengths.

A batch holds numpy arrays under T5X's names:

    encoder_input_tokens   [B, T]   the vocabulary's `pad_id` at padding
    decoder_input_tokens   [B, L]   the targets shifted right by one, starting with `start_id`
    decoder_target_tokens  [B, L]
    decoder_loss_weights   [B, L]   1 at target tokens (EOS included), 0 at padding

where T and L are the batch's bucket: the smallest of a few lengths that holds its longest row.
"""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning_jax.data.task import FEATURES, Example
from prompt_tuning_jax.errors import spelled
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
      limit: the longest target in tokens, those around it included, where targets are cut.

    Raises:
      ValueError: two labels have the same tokens, whole or cut to `limit`.
    """
    seen: dict[tuple[int, ...], str] = {}
    limit = None if vocabulary.continues else limit
    room = None if limit is None else max(limit - len(vocabulary.target_prefix) - 1, 0)
    for label in labels:
        ids = vocabulary.encode(label)
        cut = ids[:room]
        other = seen.setdefault(tuple(cut), label)
        if other != label:
            when = f" when cut to {limit}" if len(cut) < len(ids) else ""
            raise ValueError(
                f"The labels {other!r} and {label!r} are the same tokens to this model{when}: "
                "choose words that its vocabulary tells apart."
            )


class Encoder:
    """Examples -> token ids within `lengths`, counting what it had to cut.

    Text is encoded and framed as the model reads it; targets always end in EOS. Arrays of ids are
    taken as they are: a source that makes them has already decided about EOS. A sequence that is
    too long loses tokens before its EOS, never the EOS itself, so that the model still sees where
    an input ends.

    Where targets go on from their inputs, an input loses its first tokens, after those that every
    text begins with: what stands before the target stays. A target is never cut there. One that is
    longer than `lengths` say takes the room from its input.
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
        self._usual = lengths["targets"]
        targets = buckets.get("targets", TARGET_BUCKETS)
        if vocabulary.continues:  # all of a row but one token of its input
            self.lengths["targets"] += lengths["inputs"] - 1
            targets = (*targets, self._usual)
        self.buckets = {
            "inputs": bucket_lengths(lengths["inputs"], buckets.get("inputs", INPUT_BUCKETS)),
            "targets": bucket_lengths(self.lengths["targets"], targets),
        }
        self.truncated = {"inputs": 0, "targets": 0}

    def __call__(self, example: Example, feature: str) -> Tokens:
        return self.batch([example], feature)[0]

    def batch(self, examples: Sequence[Example], feature: str) -> list[Tokens]:
        """The ids of each example, which are encoded on all cores."""
        encoded = self.encode(examples, feature)
        self.truncated[feature] += sum(is_cut for _, is_cut in encoded)
        return [tokens for tokens, _ in encoded]

    def encode(self, examples: Sequence[Example], feature: str) -> list[tuple[Tokens, bool]]:
        """The ids, and whether they had to be cut, which is not counted here."""
        rows, limits = self._whole(examples, feature), self._limits(examples, feature)
        if all(0 < len(tokens) <= limit for tokens, limit in zip(rows, limits, strict=True)):
            return [(tokens, False) for tokens in rows]
        each = zip(rows, examples, limits, strict=True)
        return [self._fitted(tokens, example, feature, limit) for tokens, example, limit in each]

    def _whole(self, examples: Sequence[Example], feature: str) -> list[Tokens]:
        values = [_value(example, feature) for example in examples]
        texts = iter(self._framed([v for v in values if isinstance(v, str)], feature))
        return [next(texts) if isinstance(v, str) else np.asarray(v).tolist() for v in values]

    def _limits(self, examples: Sequence[Example], feature: str) -> list[int]:
        """How long each may be."""
        limits = [self.lengths[feature]] * len(examples)
        with_targets = all("targets" in example for example in examples)
        if feature == "targets" or not (self.vocabulary.continues and with_targets):
            return limits
        targets = self._whole(examples, "targets")
        over = [max(0, len(tokens) - self._usual) for tokens in targets]
        return [limit - more for limit, more in zip(limits, over, strict=True)]

    def pairs(self, examples: Sequence[Example]) -> Iterator[tuple[Tokens, Tokens]]:
        """(inputs, targets) of each example, whose cuts are counted when it is taken."""
        inputs, targets = (self.encode(examples, feature) for feature in FEATURES)
        for (input_tokens, is_input_cut), (target_tokens, is_target_cut) in zip(
            inputs, targets, strict=True
        ):
            self.truncated["inputs"] += is_input_cut
            self.truncated["targets"] += is_target_cut
            yield input_tokens, target_tokens

    def _framed(self, texts: Sequence[str], feature: str) -> list[Tokens]:
        """Texts' ids as the model reads them, or writes them."""
        is_target = feature == "targets"
        framed = self.vocabulary.framed_target if is_target else self.vocabulary.framed
        return [framed(ids) for ids in self.vocabulary.encode_batch(texts)]

    def _fitted(
        self, tokens: Tokens, example: Example, feature: str, limit: int
    ) -> tuple[Tokens, bool]:
        if 0 < len(tokens) <= limit:
            return tokens, False
        if not tokens:
            raise ValueError(f"An example's {feature!r} holds no token ids: {dict(example)}.")
        eos, begin = self.vocabulary.eos_id, list(self.vocabulary.prefix)
        if self.vocabulary.continues:
            if feature == "targets" or limit < 1:
                raise ValueError(
                    f"A target leaves no room for its input: a row of both has at most "
                    f"{self.lengths['targets'] + 1} tokens. Raise targets in "
                    f"{spelled('feature_lengths')}; the example is {dict(example)}."
                )
            kept = begin if tokens[: len(begin)] == begin and len(begin) < limit else []
            return [*kept, *tokens[len(tokens) - limit + len(kept) :]], True
        return [*tokens[: limit - 1], eos] if tokens[-1] == eos else tokens[:limit], True

    def bucket(self, length: int, feature: str) -> int:
        """The smallest bucket that holds `length` tokens."""
        return self.buckets[feature][bisect.bisect_left(self.buckets[feature], length)]


def _value(example: Example, feature: str) -> Any:
    if feature not in example:
        raise ValueError(f"An example has no {feature!r} field; its fields are {list(example)}.")
    return example[feature]


def encoder_features(
    inputs: Sequence[Tokens], batch_size: int, length: int, vocabulary: Vocabulary
) -> Batch:
    """The encoder's part of a batch [batch_size, length]; rows beyond `inputs` are padding."""
    return {"encoder_input_tokens": _pad(inputs, batch_size, length, vocabulary.pad_id)}


def decoder_features(
    targets: Sequence[Tokens], batch_size: int, length: int, vocabulary: Vocabulary
) -> Batch:
    """The decoder's, of targets that each end in EOS."""
    pad, start = vocabulary.pad_id, vocabulary.start_id
    shifted = [[start, *tokens[:-1]] if tokens else [] for tokens in targets]
    weights = [[1] * len(tokens) for tokens in targets]
    return {
        "decoder_input_tokens": _pad(shifted, batch_size, length, pad),
        "decoder_target_tokens": _pad(targets, batch_size, length, pad),
        "decoder_loss_weights": _pad(weights, batch_size, length, 0).astype(np.float32),
    }


def _pad(rows: Sequence[Tokens], batch_size: int, length: int, pad_id: int) -> np.ndarray:
    """Rows of ids -> [batch_size, length] int32."""
    padded = np.full((batch_size, length), pad_id, np.int32)
    for row, tokens in zip(padded, rows, strict=False):
        row[: len(tokens)] = tokens
    return padded
