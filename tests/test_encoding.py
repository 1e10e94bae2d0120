"""Token ids of examples: what is cut, what is refused, and the lengths that rows are padded to."""

import numpy as np
import pytest

from prompt_tuning_jax.data.encoding import INPUT_BUCKETS, Encoder, bucket_lengths


class Letters:
    """A vocabulary whose tokens are characters."""

    eos_id = 1

    def encode(self, text):
        return [ord(letter) for letter in text]


def test_too_long_sequences_keep_their_eos_and_are_counted():
    encoder = Encoder(Letters(), {"inputs": 4, "targets": 4})
    assert encoder({"inputs": "abcdef"}, "inputs") == [97, 98, 99, 1]
    assert encoder({"inputs": "abc"}, "inputs") == [97, 98, 99, 1]
    assert encoder({"inputs": np.array([5, 6, 7, 8, 9])}, "inputs") == [5, 6, 7, 8]
    assert encoder({"inputs": np.array([5, 6, 7, 8, 1])}, "inputs") == [5, 6, 7, 1]
    assert encoder({"inputs": np.array([5, 6])}, "inputs") == [5, 6]
    assert encoder.truncated == {"inputs": 3, "targets": 0}


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
