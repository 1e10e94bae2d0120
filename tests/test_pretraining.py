"""Pre-training examples: text files, span corruption, prefix LM, mixtures."""

import itertools

import numpy as np
import pytest

from prompt_tuning_jax.data.batches import TrainBatches
from prompt_tuning_jax.data.pretraining import (
    MixtureSource,
    TextDirectory,
    TextSource,
    documents,
    next_tokens,
    paragraphs,
    prefix_lm,
    span_corruption,
)
from prompt_tuning_jax.data.task import ExampleList


class Words:
    """A vocabulary that gives every different word an id of its own."""

    pad_id, eos_id, start_id, size, extra_ids = 0, 1, 0, 100_000, 100
    continues = False

    def __init__(self):
        self.ids = {}

    def encode_batch(self, texts):
        return [
            [self.ids.setdefault(word, 10 + len(self.ids)) for word in text.split()]
            for text in texts
        ]

    def framed(self, ids):
        return [*ids, self.eos_id]

    framed_target = framed

    def sentinel(self, index):
        return self.size - 1 - index


def undo_corruption(inputs, targets, vocabulary):
    """Puts the spans of `targets` back in the place of their sentinels."""
    first_sentinel = vocabulary.size - vocabulary.extra_ids
    spans, key = {}, None
    for token in targets[:-1].tolist():
        if token >= first_sentinel:
            key = token
            spans[key] = []
        else:
            spans[key].append(token)
    restored = [spans.get(token, [token]) for token in inputs[:-1].tolist()]
    return list(itertools.chain.from_iterable(restored)), spans


@pytest.mark.parametrize("length", [2, 3, 7, 20, 100, 512])
def test_span_corruption_can_be_undone(length):
    vocabulary, rng = Words(), np.random.default_rng(length)
    tokens = rng.integers(10, 1000, length).astype(np.int32)
    for _ in range(50):
        inputs, targets = span_corruption(tokens, rng, vocabulary)
        restored, spans = undo_corruption(inputs, targets, vocabulary)
        assert restored == tokens.tolist()
        assert inputs[-1] == targets[-1] == 1
        assert list(spans) == [vocabulary.sentinel(i) for i in range(len(spans))]
        assert all(spans.values())
        assert sum(map(len, spans.values())) == max(round(0.15 * length), 1)
        is_sentinel = inputs >= vocabulary.size - vocabulary.extra_ids
        assert not (is_sentinel[1:] & is_sentinel[:-1]).any()


def test_spans_have_the_mean_length_and_reach_everywhere():
    vocabulary, rng = Words(), np.random.default_rng(0)
    tokens = np.arange(10, 110)
    noise = np.zeros(100)
    for _ in range(2000):
        inputs, targets = span_corruption(tokens, rng, vocabulary)
        _, spans = undo_corruption(inputs, targets, vocabulary)
        assert len(spans) == 5
        noise[np.concatenate(list(spans.values())) - 10] += 1
    assert noise[0] == 0
    assert (noise[30:90] / 2000).mean() == pytest.approx(0.15, abs=0.02)


def test_too_many_spans_for_the_sentinels_is_an_error():
    vocabulary = Words()
    vocabulary.extra_ids = 3
    with pytest.raises(ValueError, match="has 3: take shorter chunks"):
        span_corruption(np.arange(200), np.random.default_rng(0), vocabulary)


def test_prefix_lm_cuts_once():
    vocabulary, rng = Words(), np.random.default_rng(0)
    tokens, cuts = np.arange(10, 15), set()
    for _ in range(100):
        inputs, targets = prefix_lm(tokens, rng, vocabulary)
        assert [*inputs[:-1], *targets[:-1]] == tokens.tolist()
        assert inputs[-1] == targets[-1] == 1
        cuts.add(len(inputs) - 1)
    assert cuts == {1, 2, 3, 4}


def test_next_tokens_are_all_but_the_first():
    inputs, targets = next_tokens(np.arange(10, 15), np.random.default_rng(0), Words())
    assert (inputs.tolist(), targets.tolist()) == ([10], [11, 12, 13, 14, 1])
    with pytest.raises(ValueError, match="at least 2 tokens"):
        next_tokens(np.arange(1), np.random.default_rng(0), Words())


def test_paragraphs_are_joined_again():
    wrapped = "one two\nthree  four\n\nfive\nsix\n   seven\neight\n"
    assert paragraphs(wrapped) == ["one two three four", "five six", "seven eight"]
    long = "word " * 60
    assert paragraphs(f"{long}\n\n  title\n{long}\r\n") == [long.strip(), "title", long.strip()]
    assert paragraphs(" \n\n") == documents("") == []


def test_documents_are_about_a_page_of_whole_paragraphs():
    text = "\n".join(f"{i} " * 120 for i in range(10))
    found = documents(text)
    assert [len(document.split()) for document in found] == [360, 360, 360, 120]
    assert " ".join(found).split() == text.split()


@pytest.fixture
def directory(tmp_path):
    rng, vocabulary = np.random.default_rng(0), Words()
    (tmp_path / "more").mkdir()
    for name, count in (("a.txt", 37), ("more/b.txt", 9), ("c.txt", 1)):
        lines = (
            " ".join(map(str, rng.integers(0, 500, rng.integers(2, 400)))) for _ in range(count)
        )
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    return TextDirectory(tmp_path, vocabulary), vocabulary


def keep(tokens, rng, vocabulary):
    """An objective that shows its chunk."""
    return tokens, np.array([rng.integers(1000)])


@pytest.mark.parametrize("length", [16, 64, 1000])
def test_chunks_cover_every_document_once_an_epoch(directory, length):
    directory, vocabulary = directory
    source = TextSource(directory, keep, vocabulary, length)
    chunks = [e["inputs"] for e in source.stream(seed=None, epoch=0)]
    assert len(chunks) == len(source)
    np.testing.assert_array_equal(np.concatenate(chunks), directory.tokens)
    assert max(map(len, chunks)) <= length
    assert min(map(len, chunks)) >= 8
    ends = np.cumsum([len(chunk) for chunk in chunks])
    assert set(directory.starts[1:]) <= set(ends)
    other = [e["inputs"] for e in source.stream(seed=None, epoch=1)]
    assert len(other) == len(chunks)
    if length < 1000:
        assert list(map(len, other)) != list(map(len, chunks))


def as_lists(examples):
    return [(list(e["inputs"]), list(e["targets"])) for e in examples]


def test_text_sources_start_anywhere(directory):
    directory, vocabulary = directory
    source = TextSource(directory, span_corruption, vocabulary, 32)
    whole = as_lists(source.stream(seed=3, epoch=2))
    for start in (0, 1, 57, len(source) - 1, len(source)):
        assert as_lists(source.stream(seed=3, epoch=2, start=start)) == whole[start:]
    assert whole != as_lists(source.stream(seed=3, epoch=3))


def test_mixtures_keep_their_rates_and_start_anywhere(directory):
    directory, vocabulary = directory
    prose = TextSource(directory, prefix_lm, vocabulary, 32)
    skills = ExampleList({"inputs": [7, i], "targets": [7]} for i in range(20))
    mixture = MixtureSource([(prose, 1), (skills, 3)])
    whole = as_lists(itertools.islice(mixture.stream(seed=1, epoch=0), 4000))
    assert np.mean([inputs[0] == 7 for inputs, _ in whole]) == pytest.approx(0.75, abs=0.03)
    for start in (1, 1023, 1024, 2500):
        again = mixture.stream(seed=1, epoch=0, start=start)
        assert as_lists(itertools.islice(again, 50)) == whole[start : start + 50]
    skill_order = [inputs[1] for inputs, _ in whole if inputs[0] == 7]
    assert sorted(skill_order[:20]) == sorted(skill_order[20:40]) == list(range(20))


def test_a_mixture_can_be_batched_and_continued(directory):
    directory, vocabulary = directory
    mixture = MixtureSource([(TextSource(directory, span_corruption, vocabulary, 48), 1)])
    options = {"batch_size": 4, "lengths": {"inputs": 48, "targets": 24}, "seed": 0}
    first, second = (TrainBatches(mixture, vocabulary, **options) for _ in range(2))
    for _ in range(9):
        next(first)
    second.set_state(first.get_state())
    expected, batch = next(first), next(second)
    for name in expected:
        np.testing.assert_array_equal(batch[name], expected[name])


def test_errors_name_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no .txt files"):
        TextDirectory(tmp_path, Words())
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a.txt is not UTF-8 \(byte 3\)"):
        TextDirectory(tmp_path, Words())
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(ValueError, match="hold no text"):
        TextDirectory(tmp_path, Words())
    with pytest.raises(ValueError, match="must be positive"):
        MixtureSource([(ExampleList([{}]), 0)])
    with pytest.raises(ValueError, match="holds no examples"):
        MixtureSource([(ExampleList(), 1)])
