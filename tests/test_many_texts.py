"""Many texts at once: the ids are those of each text alone, however often it was seen."""

import numpy as np
import pytest
from test_tokenizers import CHARACTERS, FAMILIES, configure, copied, edit
from test_vocabulary import WORDS, train_model

from prompt_tuning_jax.vocabularies import SentencePieceVocabulary, load_vocabulary, many_texts
from prompt_tuning_jax.vocabularies.many_texts import FEW, ByWords, Remembered
from prompt_tuning_jax.vocabularies.tokenizer_files import begins_anew_at_spaces


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


SPLIT = {"type": "WhitespaceSplit"}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def metaspace(scheme, split=True):
    facts = {"type": "Metaspace", "replacement": "▁"}
    return facts | {"prepend_scheme": scheme, "split": split}


@pytest.mark.parametrize(
    ("parts", "apart"),
    [
        ([SPLIT, metaspace("always")], True),
        ([SPLIT, metaspace("always", split=False)], True),
        ([SPLIT, metaspace("never")], True),
        ([SPLIT, metaspace("first")], False),
        ([SPLIT, DIGITS, metaspace("always")], True),
        ([metaspace("always"), SPLIT], False),
        ([metaspace("never", split=False), SPLIT], False),
        ([DIGITS, SPLIT, metaspace("first")], False),
        ([SPLIT, {"type": "Sequence", "pretokenizers": [metaspace("first")]}], False),
        ([{"type": "Sequence", "pretokenizers": [SPLIT, DIGITS]}, metaspace("always")], True),
        ([SPLIT, BYTES], True),
        ([SPLIT], True),
        ([metaspace("always")], False),
    ],
)
def test_words_are_looked_up_only_where_each_is_cut_as_if_alone(tmp_path, parts, apart):
    directory = copied("resized", tmp_path)
    configure(directory, tokenizer_class="PreTrainedTokenizer")
    alone = {"type": "Sequence", "pretokenizers": parts}
    edit(directory / "tokenizer.json", lambda facts: facts.update(pre_tokenizer=alone))
    vocabulary = load_vocabulary(directory)
    whole = vocabulary._tokenizer.encode_batch_fast(TEXTS, add_special_tokens=False)
    assert vocabulary.encode_batch(TEXTS) == [encoding.ids for encoding in whole]
    assert begins_anew_at_spaces(vocabulary._tokenizer) == apart


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
@pytest.mark.parametrize("split", [True, False])
def test_a_t5s_words_are_marked_whatever_its_file_says(tmp_path, scheme, split):
    directory = copied("resized", tmp_path)
    cut = {"type": "Sequence", "pretokenizers": [SPLIT, metaspace(scheme, split)]}
    edit(directory / "tokenizer.json", lambda facts: facts.update(pre_tokenizer=cut))
    expected = load_vocabulary(FAMILIES / "resized").encode_batch(TEXTS)
    assert load_vocabulary(directory).encode_batch(TEXTS) == expected


def characters(asked):
    """Encodes texts as their characters, and writes down what it was asked."""

    def encode(texts):
        asked.extend(texts)
        return [list(map(ord, text)) for text in texts]

    return encode


def test_a_text_is_encoded_once_while_there_is_room(monkeypatch):
    monkeypatch.setattr(many_texts, "MOST_TEXT", 40)
    asked = []
    remembered = Remembered(characters(asked))
    for _ in range(2):
        assert remembered.encode_batch(["ab", "ab", "cde", "fghi"])[1:] == [
            [97, 98],
            [99, 100, 101],
            [102, 103, 104, 105],
        ]
    assert asked == ["ab", "cde", "fghi"]
    for _ in range(2):
        assert remembered.encode_batch(["jk", "ab"]) == [[106, 107], [97, 98]]
    assert asked[3:] == ["jk", "jk"]


def test_one_text_by_itself_is_not_remembered():
    asked = []
    remembered = Remembered(characters(asked))
    for _ in range(2):
        assert remembered.encode_batch(["ab"]) == [[97, 98]]
    assert asked == ["ab", "ab"]


def test_words_are_forgotten_when_they_are_too_many(monkeypatch):
    """However long they are: a server's clients may send words of a million characters."""
    monkeypatch.setattr(many_texts, "MOST_WORDS", 100)
    asked = []
    by_words = ByWords(characters(asked), [])
    for text in ("ab cd ab", "cd " + 200 * "e", "ab", "ab cd"):
        assert by_words.encode_batch([text]) == [list(map(ord, text.replace(" ", "")))]
    assert sorted(asked) == ["ab", "ab", "cd", "cd", 200 * "e"]


def test_what_is_given_out_is_the_callers():
    vocabulary = SentencePieceVocabulary(train_model())
    first, second = vocabulary.encode_batch([WORDS, WORDS])
    expected = list(second)
    first.clear()
    assert second == expected
    second.clear()
    assert vocabulary.encode(WORDS) == expected
