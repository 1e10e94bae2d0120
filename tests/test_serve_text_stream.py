"""Texts as their tokens come: whole characters, and nothing of a stop string."""

import functools
import itertools

import pytest
from common import GOLDENS
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_tuning_jax import load_vocabulary
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.checkpoints.huggingface.bundled import BUNDLED_CAUSAL
from prompt_tuning_jax.serving.http.text_stream import TextStream
from prompt_tuning_jax.vocabularies.utf8_bytes import ByteVocabulary


class Parts:
    """A vocabulary whose tokens are parts of a text."""

    def __init__(self, parts):
        self.parts = parts

    def decode(self, ids):
        return "".join(self.parts[i] for i in ids)


DIRECTORIES = {
    "sentencepiece": BUNDLED,
    "tokenizer.json": BUNDLED_CAUSAL,
    "byte pairs": GOLDENS / "causal" / "qwen3",
}
VOCABULARIES = ("bytes", *DIRECTORIES)


@functools.cache
def vocabulary_of(name):
    return ByteVocabulary() if name == "bytes" else load_vocabulary(DIRECTORIES[name])


def streamed(vocabulary, ids, stops=()):
    stream = TextStream(vocabulary, stops)
    shown = []
    for token in ids:
        shown.append(stream.add(token))
        if stream.is_stopped:
            break
    return stream, [*shown, stream.end()]


def expected(text, stops):
    """Up to the first stop string that is complete; of those, the one that begins first."""
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(ends)[1]] if ends else text


@pytest.mark.parametrize("name", VOCABULARIES)
@given(text=st.text(max_size=20), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_parts_are_the_whole(name, text, data):
    vocabulary = vocabulary_of(name)
    ids = vocabulary.encode(text)
    noise = st.lists(st.integers(3, vocabulary.size - 1), max_size=4)
    for each in (ids, data.draw(noise) + ids, ids + data.draw(noise)):
        stream, shown = streamed(vocabulary, each)
        assert "".join(shown) == vocabulary.decode(each)
        assert "".join(stream.pieces) == vocabulary.decode(each)
        sums = itertools.accumulate(map(len, stream.pieces), initial=0)
        assert stream.offsets == list(sums)[: len(each)]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_several_spaces_stay_several(name):
    vocabulary = vocabulary_of(name)
    words = [vocabulary.encode(text) for text in ("a", " ", "b")]
    space = next((i for i in range(vocabulary.size) if vocabulary.id_to_piece(i) == "▁"), None)
    ids = [*words[0], *([space] * 3 if space is not None else words[1] * 3), *words[2]]
    _, shown = streamed(vocabulary, ids)
    assert "".join(shown) == vocabulary.decode(ids)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_no_half_character_is_shown(name):
    vocabulary = vocabulary_of(name)
    ids = vocabulary.encode("né 日本 👩‍👩‍👧")
    whole = vocabulary.decode(ids)
    assert name not in ("bytes", "byte pairs") or len(ids) > len(whole) > 10
    for cut in range(1, len(ids)):
        _, shown = streamed(vocabulary, ids[:cut])
        assert "\ufffd" not in "".join(shown[:-1])
        assert all(whole.startswith("".join(shown[:n])) for n in range(cut))


@given(
    st.text("ab", max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_stop_strings_wherever_tokens_divide_them(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parts = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    stream, shown = streamed(Parts(parts), range(len(parts)), stops)
    assert "".join(shown) == expected(text, stops)
    assert stream.is_stopped == any(stop in text for stop in stops)


def test_what_is_certain_is_shown_at_once():
    stream = TextStream(Parts(["hello w", "orl", "d wide", "no"]), ["world!"])
    assert [stream.add(i) for i in range(4)] == ["hello ", "", "world wide", "no"]
    stream = TextStream(Parts(["a", "stop", "more"]), ["stop"])
    assert [stream.add(i) for i in range(3)] == ["a", "", ""]
    assert stream.end() == ""


def test_a_likely_row_past_the_vocabulary_has_a_name():
    vocabulary = vocabulary_of("sentencepiece")
    stream = TextStream(vocabulary)
    stream.add(vocabulary.encode("hello")[0])
    assert stream.would_add(vocabulary.size + 20) == f"<unused_{vocabulary.size + 20}>"
    assert stream.would_add(vocabulary.eos_id) == vocabulary.id_to_piece(vocabulary.eos_id)
