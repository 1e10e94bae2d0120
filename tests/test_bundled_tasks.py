"""The bundled tasks: bare documents, balanced labels, and splits with nothing in common."""

import collections
import re

import pytest
from common import NEEDS_DATA_EXTRA

from prompt_tuning_jax.bundled import tasks
from prompt_tuning_jax.bundled.lexicon import ADJECTIVES, SHIFT_ADJECTIVES, TOWNS
from prompt_tuning_jax.bundled.subjects import SUBJECTS
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS, SIZES, bundled_examples, bundled_task
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED

# A text may name its topic or its season, as people do, and say "no" to something else.
NAMED_IN_THE_TEXT = ("bundled_topic", "bundled_season", "bundled_narrator", "bundled_woman")
LABELLED = [name for name, task in BUNDLED_TASKS.items() if task.labels]


def words(text):
    return set(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("name", BUNDLED_TASKS)
def test_splits_have_their_sizes_and_share_no_text(name):
    task = bundled_task(name)
    texts = {split: [e["inputs"] for e in task.split(split)] for split in SIZES}
    assert {split: len(found) for split, found in texts.items()} == SIZES
    together = [text for found in texts.values() for text in found]
    assert len(set(together)) > 0.999 * len(together)
    assert not set(texts["train"]) & set(texts["test"])
    assert not set(texts["validation"]) & set(texts["test"])


@pytest.mark.parametrize("name", LABELLED)
def test_labels_are_the_verbalizers_and_balanced(name):
    task = bundled_task(name)
    for split in SIZES:
        counts = collections.Counter(example["targets"] for example in task.split(split))
        assert set(counts) == set(task.verbalizers)
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("name", LABELLED)
def test_inputs_hold_neither_labels_nor_instructions(name):
    for split in SIZES:
        for example in bundled_examples(name, split):
            if name not in NAMED_IN_THE_TEXT:
                assert not words(example["inputs"]) & set(BUNDLED_TASKS[name].labels)
            assert not re.search(
                r"review|question|answer|positive|negative", example["inputs"], re.I
            )


def test_examples_are_the_same_every_time():
    task = BUNDLED_TASKS["bundled_sentiment"]
    assert (
        task.example("test", 7, "bundled_sentiment")
        == bundled_examples("bundled_sentiment", "test")[7]
    )
    assert bundled_examples("bundled_topic", "test") != bundled_examples("bundled_season", "test")


def test_the_second_domain_has_other_subjects_and_other_words():
    nouns = {n for s in ("film", "book", "hotel", "restaurant") for n in SUBJECTS[s].nouns}
    rare = {word for side in SHIFT_ADJECTIVES for word in side}
    assert rare < {word for side in ADJECTIVES for word in side}
    counts = collections.Counter()
    for name in ("bundled_sentiment", "bundled_sentiment_shift"):
        for example in bundled_examples(name, "test"):
            counts[name, "rare"] += bool(words(example["inputs"]) & rare)
            counts[name, "nouns"] += bool(words(example["inputs"]) & (nouns - {"place"}))
    assert counts["bundled_sentiment", "rare"] == 0
    assert counts["bundled_sentiment_shift", "rare"] > 300
    assert counts["bundled_sentiment", "nouns"] > 300
    assert counts["bundled_sentiment_shift", "nouns"] == 0


def test_a_place_is_in_the_text_and_often_not_the_only_one():
    rivals = 0
    for split in SIZES:
        for example in bundled_examples("bundled_place", split):
            named = [town for town in re.findall(r"\w+", example["inputs"]) if town in TOWNS[split]]
            assert example["targets"] in named
            rivals += len(set(named)) > 1
    assert rivals > 0.3 * sum(SIZES.values())


@pytest.mark.parametrize("name", BUNDLED_TASKS)
def test_hand_written_prompts_have_a_place_for_the_document(name):
    prompts = tasks.hand_written_prompts(name)
    assert 6 <= len(prompts) <= 8
    assert len(set(prompts)) == len(prompts)
    for prompt in prompts:
        assert prompt.format(input="TEXT").count("TEXT") == 1


def test_the_task_scores_predictions():
    task = bundled_task("bundled_topic")
    assert task.score(["film", "park"], ["film", "job"]) == {"accuracy": 50.0}
    assert bundled_task("bundled_place").verbalizers is None


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="bundled_sentiment, "):
        bundled_task("bundled_sentimant")
    with pytest.raises(ValueError, match="no split 'dev'"):
        bundled_examples("bundled_topic", "dev")


@pytest.mark.data
@pytest.mark.parametrize("name", BUNDLED_TASKS)
def test_seqio_serves_the_same_examples(name):
    seqio = pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)
    if not (BUNDLED / "spiece.model").is_file():
        pytest.skip("the bundled model is not there")
    import prompt_tuning_jax.tasks.bundled  # noqa: F401

    task = seqio.get_mixture_or_task(name)
    assert set(task.splits) == set(SIZES)
    served = task.get_dataset(
        {"inputs": 128, "targets": 16}, split="validation", shuffle=False
    ).as_numpy_iterator()
    vocabulary = task.output_features["inputs"].vocabulary
    for example, expected in zip(served, bundled_examples(name, "validation")[:20], strict=False):
        for field in ("inputs", "targets"):
            assert example[field].tolist() == [*vocabulary.encode(expected[field]), 1]
    (metric,) = task.metric_fns
    assert metric(["a"], ["a"]) == {"accuracy": 100.0}


@pytest.mark.data
def test_a_missing_vocabulary_is_named(monkeypatch, tmp_path):
    pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)
    if not (BUNDLED / "spiece.model").is_file():
        pytest.skip("the bundled model is not there")
    from prompt_tuning_jax.tasks import bundled

    monkeypatch.setattr(bundled, "VOCABULARY_FILE", tmp_path / "spiece.model")
    with pytest.raises(FileNotFoundError, match=r"spiece\.model"):
        bundled.register("bundled_topic", BUNDLED_TASKS["bundled_topic"])
