"""Language-model tasks: objectives, chunks, determinism, files."""

import collections
import gzip
import itertools
import json

import numpy as np
import pytest
from common import NEEDS_DATA_EXTRA, NEEDS_SHARED, shared_dir, slow
from test_seqio_source import train_vocabulary

pytestmark = pytest.mark.data
seqio = pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)
tf = pytest.importorskip("tensorflow", reason=NEEDS_DATA_EXTRA)

from prompt_tuning_jax.data.seqio_source import seqio_task  # noqa: E402
from prompt_tuning_jax.tasks import language_modeling, settings  # noqa: E402
from prompt_tuning_jax.vocabularies import load_vocabulary  # noqa: E402

WORDS = "the pond and moss on old stones by ferns in shade where herons stand".split()  # noqa: SIM905
MARKS = ("bells", "drums", "flutes")  # a word of its own for each file
LENGTHS = {"inputs": 40, "targets": 24}
BOTH = pytest.mark.parametrize("source", ["c4_v220", "text"])
OF_EACH_FAMILY = pytest.mark.parametrize(
    "objective",
    [
        name if name in ("prefix_lm", "span_corruption", "bart_text_infilling") else slow(name)
        for name in language_modeling.OBJECTIVES
    ],
)


def sentences(seed, count=30):
    rng = np.random.default_rng(seed)
    words = [*WORDS, *[MARKS[seed]] * 5]
    return [" ".join(rng.choice(words, rng.integers(20, 60))) for _ in range(count)]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "spiece"
    return load_vocabulary(train_vocabulary(path, [" ".join([*WORDS, *MARKS])], 80))


@pytest.fixture(scope="module")
def root(tmp_path_factory, vocabulary):
    """A data directory with text/ and two shards of c4/en/, chosen for the module."""
    root = tmp_path_factory.mktemp("data")
    for name, seed in (("a.txt", 0), ("more/b.txt", 1), ("validation/c.txt", 2)):
        path = root / "text" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(sentences(seed)))
    (root / "c4" / "en").mkdir(parents=True)
    for seed, name in (
        (0, "train.00000-of-00002"),
        (1, "train.00001-of-00002"),
        (2, "validation.0"),
    ):
        with gzip.open(root / "c4" / "en" / f"c4-{name}.json.gz", "wt") as file:
            rows = [{"text": text, "url": "http://moss"} for text in sentences(seed)]
            file.writelines(json.dumps(row) + "\n" for row in rows)
    with settings.using(data_dir=root, vocabulary=vocabulary):
        yield root


def examples(name, split="train", lengths=LENGTHS, shuffle=False, seed=0, count=None):
    task = seqio.get_mixture_or_task(name)
    dataset = task.get_dataset(lengths, split, shuffle=shuffle, seed=seed)
    return [
        (each["inputs"].tolist(), each["targets"].tolist())
        for each in itertools.islice(dataset.as_numpy_iterator(), count)
    ]


def restored(inputs, targets, vocabulary):
    """The text that span corruption was made from: each sentinel replaced by its span."""
    first = vocabulary.sentinel(vocabulary.extra_ids - 1)
    spans, current = {}, None
    for token in targets[:-1]:
        if token >= first:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    pieces = [spans.pop(token) if token >= first else [token] for token in inputs[:-1]]
    assert not spans
    return list(itertools.chain.from_iterable(pieces))


@OF_EACH_FAMILY
def test_examples_fit_end_in_eos_and_depend_on_the_seed_alone(root, objective):
    found = examples(f"text_{objective}", shuffle=True, seed=5)
    assert len(found) > 20
    for inputs, targets in found:
        assert len(inputs) <= LENGTHS["inputs"]
        assert len(targets) <= LENGTHS["targets"]
        assert inputs[-1] == targets[-1] == 1
        assert 1 not in inputs[:-1] + targets[:-1]
    assert found == examples(f"text_{objective}", shuffle=True, seed=5)


@pytest.mark.slow
def test_another_seed_draws_other_spans(root):
    first, second = (examples("text_span_corruption", shuffle=True, seed=seed) for seed in (0, 1))
    assert len(first) == len(second)
    same = {str(each) for each in first} & {str(each) for each in second}
    assert len(same) < 0.1 * len(first)  # so few spans can coincide by chance


@BOTH
def test_span_corruption_fills_the_rows_and_hides_15_percent(root, vocabulary, source):
    found = examples(f"{source}_span_corruption")
    sizes = collections.Counter(len(inputs) for inputs, _ in found)
    assert sizes.most_common(1)[0][0] == LENGTHS["inputs"]
    texts = [restored(*each, vocabulary) for each in found]
    hidden = sum(len(targets) - 1 for _, targets in found)
    spans = sum(t >= vocabulary.sentinel(vocabulary.extra_ids - 1) for _, ts in found for t in ts)
    assert (hidden - spans) / sum(map(len, texts)) == pytest.approx(0.15, abs=0.02)
    words = collections.Counter(
        vocabulary.decode(list(itertools.chain.from_iterable(texts))).split()
    )
    expected = collections.Counter(" ".join(sentences(0) + sentences(1)).split())
    missing = sum((expected - words).values())
    assert missing < 0.05 * sum(expected.values())  # ends of texts, and words cut in two


def test_chunks_are_t5s():
    vocabulary = language_modeling.Sentinels(32100, 100, 1)
    chunk = language_modeling.OBJECTIVES["span_corruption"].chunk_length
    assert chunk({"inputs": 512, "targets": 114}, vocabulary) == 568
    assert chunk({"inputs": 512, "targets": 512}, vocabulary) == 568
    assert chunk({"inputs": 512, "targets": 57}, vocabulary) < 300


def test_the_sentinel_comes_before_the_same_objectives_targets(root, vocabulary):
    for inputs, targets in examples("c4_v220_span_corruption_sentinel"):
        assert targets[:2] == [vocabulary.sentinel(0)] * 2
        restored(inputs, targets[1:], vocabulary)


def test_prefix_lm_goes_on_where_the_inputs_end(root, vocabulary):
    texts = [" ".join(sentences(seed)) for seed in range(2)]
    for inputs, targets in examples("text_prefix_lm"):
        assert any(vocabulary.decode(inputs[:-1] + targets[:-1]) in text for text in texts)


def test_bart_objectives_restore_the_whole_text(root, vocabulary):
    first = vocabulary.sentinel(vocabulary.extra_ids - 1)
    shares = []
    for inputs, targets in examples("c4_v220_bart_token_deletion"):
        rest = iter(targets)
        assert all(token in rest for token in inputs)  # in the same order
        shares.append(len(inputs) / len(targets))
    assert np.mean(shares) == pytest.approx(0.85, abs=0.03)
    for inputs, targets in examples("c4_v220_bart_text_infilling"):
        kept = [token for token in inputs if token < first]
        rest = iter(targets)
        assert len(kept) < len(targets)
        assert all(token in rest for token in kept)


@pytest.mark.parametrize("source", [slow("c4_v220"), "text"])
def test_validation_is_held_out(root, vocabulary, source):
    def words(split):
        found = examples(f"{source}_prefix_lm", split)
        return {w for sides in found for ids in sides for w in vocabulary.decode(ids).split()}

    assert words("train") & set(MARKS) == {"bells", "drums"}
    assert words("validation") & set(MARKS) == {"flutes"}


def test_hosts_read_different_files(root, vocabulary):
    task = seqio.get_mixture_or_task("c4_v220_prefix_lm")
    for host, mark in enumerate(MARKS[:2]):
        dataset = task.get_dataset(
            LENGTHS, "train", shuffle=False, seed=0, shard_info=seqio.ShardInfo(host, 2)
        )
        text = " ".join(
            vocabulary.decode(each["inputs"].tolist()) for each in dataset.as_numpy_iterator()
        )
        assert set(text.split()) & set(MARKS) == {mark}


def test_the_librarys_own_engine_reads_them(root, vocabulary):
    task = seqio_task(
        "text_prefix_lm", "prompt_tuning_jax.tasks.language_modeling", vocabulary, LENGTHS
    )
    source = task.split("validation")
    assert len(source) == len(list(source.stream(seed=None, epoch=0)))
    assert not task.metrics


def test_lengths_default_to_512(root):
    longest = max(len(inputs) for inputs, _ in examples("text_span_corruption", lengths=None))
    assert longest == 512


def test_bad_input_is_named(root, tmp_path, vocabulary):
    with pytest.raises(ValueError, match=r"feature_lengths.*raise them"):
        examples("text_prefix_lm", lengths={"inputs": 6, "targets": 6})
    with settings.using(data_dir=tmp_path):
        with pytest.raises(FileNotFoundError, match="put prose there for train"):
            examples("text_prefix_lm")
        (tmp_path / "text").mkdir()
        (tmp_path / "text" / "a.txt").write_bytes(b"caf\xe9 by the pond")
        with pytest.raises(ValueError, match=r"a\.txt is not UTF-8"):
            examples("text_prefix_lm")
        with pytest.raises(FileNotFoundError, match="put prose there for validation"):
            examples("text_prefix_lm", "validation")
        with pytest.raises(FileNotFoundError, match=r"c4/en/c4-train.*unset the data directory"):
            examples("c4_v220_prefix_lm")
        shard = tmp_path / "c4" / "c4-train.00000-of-01024.json"
        shard.parent.mkdir()
        for line in ('{"text": "the pond', '{"text": 3}', '{"url": "x"}'):
            shard.write_text(line + "\n")
            with pytest.raises(tf.errors.OpError, match=r"00000-of-01024\.json:1: malformed line"):
                examples("c4_v220_prefix_lm")
    with (
        settings.using(data_dir=None),
        pytest.raises(FileNotFoundError, match="PROMPT_TUNING_DATA_DIR"),
    ):
        examples("text_prefix_lm")


@pytest.mark.slow
@pytest.mark.skipif(shared_dir() is None, reason=NEEDS_SHARED)
def test_real_prose(tmp_path):
    data = shared_dir() / "data"
    (tmp_path / "text").symlink_to(data / "lm" / "wikitext-2")
    spiece = data / "t5" / "sentencepiece.model"
    model = load_vocabulary(spiece)
    with settings.using(data_dir=tmp_path, vocabulary=str(spiece)):
        lengths = {"inputs": 512, "targets": 114}
        for inputs, targets in examples("text_span_corruption", lengths=lengths, count=20):
            assert (len(inputs), len(targets)) == (512, 114)
            assert len(restored(inputs, targets, model)) == 568
