"""Many texts at once: the ids are those of each text alone, however often it was seen."""

import numpy as np
import pytest
from test_tokenizers import CHARACTERS, FAMILIES
from test_vocabulary import WORDS, train_model

from prompt_tuning_jax.vocabularies import SentencePieceVocabulary, load_vocabulary, many_texts
from prompt_tuning_jax.vocabularies.many_texts import FEW, Remembered


def random_texts(count, alphabet, seed=0):
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list(alphabet), rng.integers(1, 9))) for _ in range(200)]
    return [" ".join(rng.choice(words, rng.integers(0, 60))) for _ in range(count)]


TEXTS = [
    *random_texts(FEW, "abdeiors"),
    *random_texts(FEW, CHARACTERS),
    f"  {WORDS}  twice  {WORDS} ",
    f"{WORDS}\ttab\nline",
    "naïve café ½ 東京",
    "<extra_id_0> in a<extra_id_1> text </s> <pad>",
    "<task_a> x<task_b>zqx y",
    " ",
    "",
    "x" * 3000,
]


@pytest.mark.parametrize("overrides", [{}, {"model_type": "bpe"}, {"split_by_whitespace": False}])
def test_sentencepiece(overrides):
    vocabulary = SentencePieceVocabulary(train_model(**overrides))
    whole = [vocabulary._processor.encode(text, out_type=int) for text in TEXTS]
    for _ in range(2):
        assert vocabulary.encode_batch(TEXTS) == whole
        assert vocabulary.encode_batch(TEXTS[-9:]) == whole[-9:]


@pytest.mark.parametrize("name", ["byt5", "codet5p", "madlad", "resized", "umt5"])
def test_tokenizers(name):
    vocabulary, alone = (load_vocabulary(FAMILIES / name) for _ in range(2))
    if name == "byt5":
        whole = [alone.encode(text) for text in TEXTS]
    else:
        encode = alone._tokenizer.encode
        whole = [encode(text, add_special_tokens=False).ids for text in TEXTS]
    for _ in range(2):
        assert vocabulary.encode_batch(TEXTS) == whole


def test_a_text_is_encoded_once_while_there_is_room(monkeypatch):
    monkeypatch.setattr(many_texts, "MOST_IDS", 8)
    asked = []

    def encode(texts):
        asked.extend(texts)
        return [list(map(ord, text)) for text in texts]

    remembered = Remembered(encode)
    for _ in range(2):
        assert remembered.encode_batch(["ab", "ab", "cde", "fghi"])[1:] == [
            [97, 98],
            [99, 100, 101],
            [102, 103, 104, 105],
        ]
    assert asked == ["ab", "cde", "fghi"]
    for _ in range(2):
        remembered.encode_batch(["jk"])
    assert asked[3:] == ["jk", "jk"]


def test_what_is_given_out_is_the_callers():
    vocabulary = SentencePieceVocabulary(train_model())
    first, second = vocabulary.encode_batch([WORDS, WORDS])
    expected = list(second)
    first.clear()
    assert second == expected
    second.clear()
    assert vocabulary.encode(WORDS) == expected
