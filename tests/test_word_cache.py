"""Texts encoded by their words: the ids are those of whole texts, near ties included."""

import itertools
import math

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizers import CHARACTERS, FAMILIES
from test_vocabulary import WORDS, train_model

from prompt_tuning_jax.vocabularies import SentencePieceVocabulary, load_vocabulary
from prompt_tuning_jax.vocabularies.near_ties import MARGIN, clear_words
from prompt_tuning_jax.vocabularies.word_cache import FEW, sentencepiece_cache

PIECES = {"▁": -2.0, "a": -3.0, "b": -3.1, "ab": -4.0, "▁a": -3.5, "▁ab": -5.2, "ba": -4.2}


def ways(word, scores, unknown):
    """The scores of every way to cut a word."""
    if not word:
        return [0.0]
    found = []
    for end in range(1, len(word) + 1):
        score = scores.get(word[:end], unknown if end == 1 else None)
        if score is not None:
            found += [score + rest for rest in ways(word[end:], scores, unknown)]
    return found


@settings(max_examples=60, deadline=None)
@given(st.sets(st.text("abc", min_size=1, max_size=7), min_size=1, max_size=8))
def test_a_clear_word_is_one_whose_second_best_way_is_far_off(words):
    unknown = min(PIECES.values()) - 10
    expected = set()
    for word in words:
        best, *others = sorted(ways(f"▁{word}", PIECES, unknown), reverse=True)
        if best - max(others, default=-math.inf) > MARGIN:
            expected.add(word)
    assert set(clear_words(list(words), PIECES)) == expected


def test_scores_so_low_that_rounding_matters_are_left_alone():
    assert clear_words(["a"], PIECES) == ["a"]
    assert clear_words(["a"], PIECES | {"c": -500.0}) == []


def random_texts(count, alphabet, seed=0):
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list(alphabet), rng.integers(1, 9))) for _ in range(200)]
    return [" ".join(rng.choice(words, rng.integers(0, 60))) for _ in range(count)]


@pytest.mark.parametrize("overrides", [{}, {"model_type": "bpe"}, {"split_by_whitespace": False}])
def test_ids_are_those_of_whole_texts(overrides):
    """A model that has learnt little has near ties everywhere."""
    vocabulary = SentencePieceVocabulary(train_model(**overrides))
    texts = [
        *random_texts(300, "abdeiors"),
        *random_texts(FEW, CHARACTERS),
        f"  {WORDS}  twice  {WORDS} ",
        f"{WORDS}\ttab\nline",
        "naïve café ½ 東京",
        "<extra_id_0> in a<extra_id_1> text </s> <pad>",
        " ",
        "",
        "x" * 3000,
        f"{WORDS} " * 90,
    ]
    whole = [vocabulary._processor.encode(text, out_type=int) for text in texts]
    assert vocabulary.encode_batch(texts) == whole
    assert vocabulary.encode_batch(texts) == whole  # now every word is known


def test_near_ties_are_there_and_would_be_wrong_word_by_word():
    """Pieces of equal scores: which of two ways is taken depends on what stands before."""
    rng = np.random.default_rng(0)
    pairs = ["".join(p) for p in itertools.product("abcd", repeat=2)]
    scores = {"<unk>": 0.0, "▁": -1.7} | dict.fromkeys("abcd", -3.3) | dict.fromkeys(pairs, -4.1)
    model = sentencepiece.SentencePieceProcessor(model_proto=proto(scores))
    words = ["".join(rng.choice(list("abcd"), 5)) for _ in range(50)]
    assert clear_words(words, scores) == []
    texts = [" ".join(rng.choice(words, 40)) for _ in range(FEW)]
    cache = sentencepiece_cache(model, proto(scores))
    assert cache.encode_batch(texts) == model.encode(texts, out_type=int)


def proto(scores):
    """A unigram model with these pieces, in protobuf's wire format."""
    made = b""
    for piece, score in scores.items():
        text = piece.encode()
        kind = b"\x18\x02" if piece == "<unk>" else b""
        message = b"\x0a" + bytes([len(text)]) + text + b"\x15" + np.float32(score).tobytes() + kind
        made += b"\x0a" + bytes([len(message)]) + message
    trainer = b"\x18\x01"  # unigram
    normalizer = b"\x0a\x08identity\x18\x01\x20\x01\x28\x01"
    parts = b"\x12" + bytes([len(trainer)]) + trainer
    return made + parts + b"\x1a" + bytes([len(normalizer)]) + normalizer


@pytest.mark.parametrize("name", ["codet5p", "madlad", "resized", "umt5"])
def test_tokenizers_too(name):
    vocabulary = load_vocabulary(FAMILIES / name)
    texts = [
        *random_texts(FEW, CHARACTERS),
        "<task_a> x<task_b>zqx y",
        "<extra_id_0> </s>",
        "  two  spaces ",
    ]
    encode = vocabulary._tokenizer.encode
    whole = [encode(text, add_special_tokens=False).ids for text in texts]
    assert vocabulary.encode_batch(texts) == whole
    assert vocabulary.encode_batch(texts) == whole
