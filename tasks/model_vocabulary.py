"""A model's own vocabulary as SeqIO wants one, whichever files it came in."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import seqio
import tensorflow as tf

from prompt_tuning_jax.vocabularies import Vocabulary

EXTRA_IDS = 100  # the sentinels of T5's vocabulary


class ModelVocabulary(seqio.Vocabulary):
    """Equal to the vocabulary it is made of; SeqIO's own classes are faster where they do.

    Attributes:
      model: the vocabulary.
    """

    def __init__(self, model: Vocabulary):
        """Takes a vocabulary whose texts only end in something of their own.

        Raises:
          ValueError: texts begin with a special token, which SeqIO has no way to add.
        """
        if model.prefix:
            raise ValueError(
                f"{model.name} begins each text with {model.id_to_piece(model.prefix[0])!r}, which "
                "SeqIO's tasks do not: use files of your own, or a model whose texts only end."
            )
        super().__init__(model.extra_ids)
        self.model = model

    @property
    def bos_id(self) -> int | None:
        return self.model.bos_id

    @property
    def eos_id(self) -> int:
        return self.model.eos_id

    @property
    def pad_id(self) -> int:
        return self.model.pad_id

    @property
    def unk_id(self) -> int | None:
        return self.model.unk_id

    @property
    def _base_vocab_size(self) -> int:
        return self.model.size

    @property
    def vocab_size(self) -> int:
        return self.model.size

    def _encode(self, s: str | bytes) -> list[int]:
        return self.model.encode(s.decode() if isinstance(s, bytes) else s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.model.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        ids = tf.numpy_function(lambda text: np.array(self._encode(text), np.int32), [s], tf.int32)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(rows: np.ndarray) -> np.ndarray:
            flat = rows.reshape(-1, rows.shape[-1])
            texts = [self._decode(row.tolist()).encode() for row in flat]
            return np.array(texts, object).reshape(rows.shape[:-1])

        texts = tf.numpy_function(decode, [ids], tf.string)
        texts.set_shape(ids.shape[:-1])
        return texts

    def __eq__(self, other: object) -> bool:
        model = other.model if isinstance(other, ModelVocabulary) else other
        return isinstance(model, Vocabulary) and model.fingerprint == self.model.fingerprint

    def __hash__(self) -> int:
        return hash(self.model.fingerprint)


@dataclasses.dataclass(frozen=True)
class Sentinels:
    """One of SeqIO's own vocabularies by its sentinels, of which the first is the last id."""

    size: int
    extra_ids: int
    eos_id: int

    @classmethod
    def of(cls, vocabulary: seqio.Vocabulary) -> "Sentinels | Vocabulary":
        """A model's vocabulary knows its own: ids of other tokens may follow them."""
        if isinstance(vocabulary, ModelVocabulary):
            return vocabulary.model
        # A file that holds its sentinels, as mT5's does, counts as one without extra ids.
        extra_ids = vocabulary.extra_ids or EXTRA_IDS
        return cls(vocabulary.vocab_size, extra_ids, vocabulary.eos_id)

    def sentinel(self, index: int) -> int:
        return self.size - 1 - index
