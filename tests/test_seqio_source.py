"""SeqIO tasks and mixtures as tasks of this library."""

import dataclasses
import functools
import itertools
import json
import sys

import numpy as np
import pytest
from common import NEEDS_DATA_EXTRA, slow

from prompt_tuning_jax.data.batches import TrainBatches
from prompt_tuning_jax.data.task import target_text
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.transfer.mixtures import runs_of_mixture
from prompt_tuning_jax.vocabularies import SentencePieceVocabulary, load_vocabulary

pytestmark = pytest.mark.data
seqio = pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)

LENGTHS = {"inputs": 32, "targets": 8}
LABELS = ("quiet", "loud")
TASK_MODULE = """
import functools

import seqio
import tensorflow as tf

LABELS = ("quiet", "loud")
VERBALIZERS = {"little_sounds": LABELS}
SIZES = {"train": 40, "validation": 10}


def dataset(split, shuffle_files=False, seed=None, *, word):
    rows = range(SIZES[split])
    return tf.data.Dataset.from_tensor_slices({
        "inputs": [f"the {word} number {i} sounds" for i in rows],
        "targets": [LABELS[i % 2] for i in rows],
    })


def to_number(text, example=None, is_target=False):
    assert (b"number" in example["inputs_pretokenized"])
    return LABELS.index(text) if text in LABELS else -1


def share(targets, predictions):
    return {"share": 100 * sum(t == p for t, p in zip(targets, predictions)) / len(targets)}


def register(spiece, extra_ids=100):
    vocabulary = seqio.SentencePieceVocabulary(spiece, extra_ids)
    feature = seqio.Feature(vocabulary, add_eos=True)
    for name, word in (("little_sounds", "bell"), ("more_sounds", "drum")):
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(
                functools.partial(dataset, word=word), splits=tuple(SIZES), num_input_examples=SIZES
            ),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features={"inputs": feature, "targets": feature},
            postprocess_fn=to_number,
            metric_fns=[share],
        )
    seqio.TaskRegistry.add(
        "cached_sounds",
        source=seqio.FunctionDataSource(
            functools.partial(dataset, word="gong"), splits=tuple(SIZES)
        ),
        preprocessors=[seqio.CacheDatasetPlaceholder(required=True)],
        output_features={"inputs": feature, "targets": feature},
    )
    seqio.MixtureRegistry.add("all_sounds", ["little_sounds", "more_sounds"], default_rate=1)
    seqio.MixtureRegistry.add("one_sound", [("little_sounds", 1), ("more_sounds", 0)])
"""


def train_vocabulary(path, words, size=60):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words * 20),
        model_prefix=str(path),
        vocab_size=size,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return path.with_suffix(".model")


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """(this library's task maker, the vocabulary), with the tasks above registered."""
    from prompt_tuning_jax.data.seqio_source import seqio_task

    folder = tmp_path_factory.mktemp("seqio")
    words = ["the bell number 0123456789 sounds quiet loud", "the drum number sounds"]
    spiece = train_vocabulary(folder / "spiece", words)
    (folder / "sound_tasks.py").write_text(TASK_MODULE + f"\n\nregister({str(spiece)!r})\n")
    sys.path.insert(0, str(folder))
    vocabulary = load_vocabulary(spiece)
    make = functools.partial(
        seqio_task, module="sound_tasks", vocabulary=vocabulary, feature_lengths=LENGTHS
    )
    make("little_sounds")
    yield make, vocabulary
    sys.path.remove(str(folder))
    seqio.TaskRegistry.remove("little_sounds")
    seqio.TaskRegistry.remove("more_sounds")
    seqio.TaskRegistry.remove("cached_sounds")
    seqio.MixtureRegistry.remove("all_sounds")
    seqio.MixtureRegistry.remove("one_sound")


def test_a_comparison_holds_out_what_can_be_scored(setup):
    from prompt_tuning_jax.training.comparison.splits import with_test_split

    make, vocabulary = setup
    task = with_test_split(make("little_sounds"))
    rest, chosen = (list(task.split(x).stream(seed=None, epoch=0)) for x in ("train", "validation"))
    assert len(rest) + len(chosen) == 40
    assert not {str(x["inputs"]) for x in rest} & {str(x["inputs"]) for x in chosen}
    targets = [target_text(example, vocabulary) for example in chosen]
    loud = sum("loud" in str(target) for target in targets)
    score = task.score(targets, ["loud"] * len(targets))["share"]
    assert score == pytest.approx(100 * loud / len(targets))
    with pytest.raises(ValueError, match="is a mixture with one split beside train"):
        with_test_split(make("all_sounds"))


def as_lists(examples):
    return [(e["inputs"].tolist(), e["targets"].tolist()) for e in examples]


def test_examples_are_those_of_seqio(setup):
    make, vocabulary = setup
    task = make("little_sounds")
    assert set(task.splits) == {"train", "validation"}
    assert task.verbalizers == LABELS
    source = task.split("validation")
    examples = list(source.stream(seed=None, epoch=0))
    assert len(source) == len(examples) == 10
    expected = vocabulary.encode("the bell number 3 sounds")
    assert examples[3]["inputs"].tolist() == [*expected, 1]
    assert [target_text(e, vocabulary) for e in examples] == ["quiet", "loud"] * 5


@pytest.mark.parametrize("name", ["little_sounds", slow("all_sounds")])
def test_order_depends_on_seed_and_epoch_and_starts_anywhere(setup, name):
    make, _ = setup
    source = make(name).split("train")

    def read(**order):
        return as_lists(itertools.islice(source.stream(**order), 40))

    first = read(seed=1, epoch=0)
    assert first == read(seed=1, epoch=0)
    assert first != read(seed=2, epoch=0)
    assert first != read(seed=1, epoch=1)
    assert read(seed=1, epoch=0, start=13)[:27] == first[13:]


def test_batches_continue_bit_identically(setup):
    make, vocabulary = setup

    def batches():
        source = make("little_sounds").split("train")
        return TrainBatches(source, vocabulary, batch_size=4, lengths=LENGTHS, seed=0)

    first, second = batches(), batches()
    for _ in range(17):  # into the second epoch
        next(first)
    second.set_state(json.loads(json.dumps(first.get_state())))
    expected, batch = next(first), next(second)
    for name in expected:
        np.testing.assert_array_equal(batch[name], expected[name])


def test_a_mixture_keeps_its_rates_and_evaluates_every_task(setup):
    make, vocabulary = setup
    task = make("all_sounds")
    some = itertools.islice(task.split("train").stream(seed=0, epoch=0), 400)
    drums = [" drum " in vocabulary.decode(e["inputs"].tolist()) for e in some]
    assert np.mean(drums) == pytest.approx(0.5, abs=0.1)
    examples = list(task.split("validation").stream(seed=None, epoch=0))
    assert len(examples) == 20
    targets = [target_text(e, vocabulary) for e in examples]
    scores = task.score(targets, ["quiet"] * 10 + targets[10:])
    assert scores == {"little_sounds/share": 50.0, "more_sounds/share": 100.0, "mean": 75.0}


def test_a_task_that_is_only_read_from_a_cache_is_refused(setup):
    make, _ = setup
    with pytest.raises(ValueError, match="'cached_sounds' is only read from a cache"):
        make("cached_sounds")


def test_a_mixture_is_a_run_of_each_of_its_tasks(setup):
    config = TrainConfig(task="all_sounds", task_module="sound_tasks", mix_tasks=True)
    assert runs_of_mixture(config) == {
        name: {"task": name, "task_rate": 1.0} for name in ("little_sounds", "more_sounds")
    }
    for alone in ("little_sounds", "one_sound"):  # the other of two has no examples there
        with pytest.raises(ValueError, match="needs several tasks"):
            runs_of_mixture(dataclasses.replace(config, task=alone))


def test_scores_go_through_the_tasks_postprocessor(setup):
    make, vocabulary = setup
    task = make("little_sounds")
    examples = task.split("validation").stream(seed=None, epoch=0)
    targets = [target_text(e, vocabulary) for e in examples]
    assert task.score(targets, targets) == {"share": 100.0, "mean": 100.0}
    assert task.score(targets, ["nonsense"] * 10) == {"share": 0.0, "mean": 0.0}
    assert task.best_metric == "mean"


def test_errors_name_the_remedy(setup, tmp_path):
    make, vocabulary = setup
    with pytest.raises(ValueError, match="did you mean 'little_sounds'"):
        make("litle_sounds")
    with pytest.raises(ValueError, match="PYTHONPATH"):
        make("little_sounds", module="absent_module")
    fewer = SentencePieceVocabulary(vocabulary.model_bytes, extra_ids=10)
    with pytest.raises(ValueError, match="same number of extra ids"):
        make("little_sounds", vocabulary=fewer)
    other = load_vocabulary(
        train_vocabulary(tmp_path / "other", ["quite other words here 0123"], 30)
    )
    with pytest.raises(ValueError, match="does not use the model's vocabulary"):
        make("little_sounds", vocabulary=other)
