"""Token ids of examples: what is cut, what is refused, and the lengths that rows are padded to."""

import numpy as np
import pytest

from prompt_tuning_jax.data.encoding import (
    INPUT_BUCKETS,
    Encoder,
    bucket_lengths,
    check_distinct,
    decoder_features,
    encoder_features,
)
from prompt_tuning_jax.vocabularies import T5_IDS, SpecialIds, Vocabulary


class Letters(Vocabulary):
    """A vocabulary whose tokens are characters."""

    size, fingerprint = 0x110000, "letters"

    def __init__(self, special=T5_IDS, prefix=(), suffix=None):
        super().__init__(special, prefix, suffix, name="letters")

    def encode_batch(self, texts):
        return [[ord(letter) for letter in text] for text in texts]

    def id_to_piece(self, token):
        return chr(token)

    def save(self, directory):
        raise NotImplementedError

    def _text(self, ids):
        return "".join(map(chr, ids))

    def _sentinel(self, index):
        raise NotImplementedError


def test_too_long_sequences_keep_their_eos_and_are_counted():
    encoder = Encoder(Letters(), {"inputs": 4, "targets": 4})
    assert encoder({"inputs": "abcdef"}, "inputs") == [97, 98, 99, 1]
    assert encoder({"inputs": "abc"}, "inputs") == [97, 98, 99, 1]
    assert encoder({"inputs": np.array([5, 6, 7, 8, 9])}, "inputs") == [5, 6, 7, 8]
    assert encoder({"inputs": np.array([5, 6, 7, 8, 1])}, "inputs") == [5, 6, 7, 1]
    assert encoder({"inputs": np.array([5, 6])}, "inputs") == [5, 6]
    assert encoder.truncated == {"inputs": 3, "targets": 0}


def test_many_at_once_are_as_one_by_one():
    examples = [{"inputs": text, "targets": [5, 1]} for text in ("abcdef", "abc", "")]
    encoder, alone = (Encoder(Letters(), {"inputs": 4, "targets": 4}) for _ in range(2))
    assert encoder.batch(examples, "inputs") == [alone(each, "inputs") for each in examples]
    assert encoder.truncated == alone.truncated == {"inputs": 1, "targets": 0}
    pairs = encoder.pairs(examples)
    assert next(pairs) == ([97, 98, 99, 1], [5, 1])
    assert encoder.truncated["inputs"] == 2  # those not taken yet are not counted


def test_a_models_own_frame_survives_cutting():
    framing = Letters(SpecialIds(pad=7, eos=2, start=3, bos=1), prefix=(1,))
    encoder = Encoder(framing, {"inputs": 4, "targets": 4})
    assert encoder({"inputs": "ab"}, "inputs") == [1, 97, 98, 2]
    assert encoder({"inputs": "abcdef"}, "inputs") == [1, 97, 98, 2]
    begun = Encoder(Letters(SpecialIds(eos=2), prefix=(1,), suffix=()), encoder.lengths)
    assert begun({"inputs": "abcdef"}, "inputs") == [1, 97, 98, 99]
    assert begun({"targets": "a"}, "targets") == [1, 97, 2]  # what is to be written has an end


def test_padding_and_the_decoders_start_are_the_vocabularys():
    vocabulary = Letters(SpecialIds(pad=7, eos=2, start=3))
    batch = decoder_features([[97, 2]], 2, 3, vocabulary)
    assert batch["decoder_input_tokens"].tolist() == [[3, 97, 7], [7, 7, 7]]
    assert batch["decoder_target_tokens"].tolist() == [[97, 2, 7], [7, 7, 7]]
    assert batch["decoder_loss_weights"].tolist() == [[1, 1, 0], [0, 0, 0]]
    inputs = encoder_features([[97, 2]], 2, 3, vocabulary)["encoder_input_tokens"]
    assert inputs.tolist() == [[97, 2, 7], [7, 7, 7]]


def test_labels_are_compared_as_they_are_cut():
    framing = Letters(SpecialIds(eos=2, bos=1), prefix=(1,))
    check_distinct(["abc", "abd"], framing, 5)
    with pytest.raises(ValueError, match="same tokens to this model when cut to 4"):
        check_distinct(["abc", "abd"], framing, 4)


def test_an_example_without_tokens_is_refused():
    encoder = Encoder(Letters(), {"inputs": 4, "targets": 4})
    with pytest.raises(ValueError, match=r"no 'targets' field; its fields are \['inputs'\]"):
        encoder({"inputs": "a"}, "targets")
    with pytest.raises(ValueError, match="holds no token ids"):
        encoder({"inputs": np.array([], int)}, "inputs")


def test_buckets_end_with_the_longest_length():
    assert bucket_lengths(100, INPUT_BUCKETS) == (32, 48, 64, 96, 100)
    assert bucket_lengths(32, INPUT_BUCKETS) == bucket_lengths(32, ()) == (32,)
    with pytest.raises(ValueError, match="at least 1"):
        bucket_lengths(0, INPUT_BUCKETS)


class TestTargetsThatGoOn:
    """Of a causal model: a row is an input and the target that goes on from it."""

    def encoder(self, prefix=(), **buckets):
        vocabulary = Letters(prefix=prefix).continuing()
        return Encoder(vocabulary, {"inputs": 6, "targets": 3}, buckets or None)

    def test_an_input_keeps_its_end_and_what_all_texts_begin_with(self):
        encoder = self.encoder(prefix=(2,))
        assert encoder({"inputs": "abcdefgh"}, "inputs") == [2, *map(ord, "defgh")]
        assert encoder({"inputs": "abcde"}, "inputs") == [2, *map(ord, "abcde")]
        assert encoder({"inputs": np.arange(10, 20)}, "inputs") == [14, 15, 16, 17, 18, 19]
        assert encoder({"inputs": np.array([2, *range(10, 20)])}, "inputs")[0] == 2
        assert encoder.truncated == {"inputs": 3, "targets": 0}

    def test_a_target_is_never_cut_and_takes_its_inputs_room(self):
        encoder = self.encoder()
        (one, target), (other, short) = encoder.pairs(
            [{"inputs": "abcdef", "targets": "xxxx"}, {"inputs": "abcdef", "targets": "xx"}]
        )
        assert (one, target) == ([*map(ord, "cdef")], [120] * 4 + [1])
        assert (other, short) == ([*map(ord, "abcdef")], [120] * 2 + [1])
        assert encoder.truncated == {"inputs": 1, "targets": 0}
        assert encoder.bucket(len(target), "targets") == 8
        assert self.encoder(targets=()).buckets["targets"] == (3, 8)

    def test_a_target_without_room_is_refused(self):
        (_, target), *_ = self.encoder().pairs([{"inputs": "ab", "targets": "x" * 7}])
        assert len(target) == 8
        for feature in ("inputs", "targets"):
            with pytest.raises(ValueError, match=r"leaves no room for its input: .* 9 tokens"):
                self.encoder()({"inputs": "ab", "targets": "x" * 8}, feature)

    def test_labels_that_differ_late_are_told_apart(self):
        check_distinct(["aaaa", "aaab"], Letters().continuing(), 2)
