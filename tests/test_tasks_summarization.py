"""Summarisation: texts and scores, from data sets that are written here as TFDS stores them."""

import pytest
from common import NEEDS_DATA_EXTRA

pytestmark = pytest.mark.data
seqio = pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)
tfds = pytest.importorskip("tensorflow_datasets", reason=NEEDS_DATA_EXTRA)

from prompt_tuning_jax.data.seqio_source import seqio_task  # noqa: E402
from prompt_tuning_jax.tasks import settings, summarization  # noqa: E402

LENGTHS = {"inputs": 64, "targets": 16}
ROWS = [
    ("The pond was cleaned . Herons came back .", "Herons are back ."),
    ("Moss grew over the old stones .", "Moss covers stones ."),
]


@pytest.fixture
def stored(tmp_path, vocabulary):
    """Writes a data set, and has SeqIO look for it there."""

    def store(dataset, version, data):
        features = tfds.features.FeaturesDict(
            {data.text: tfds.features.Text(), data.summary: tfds.features.Text()}
        )
        rows = [(i, {data.text: text, data.summary: s}) for i, (text, s) in enumerate(ROWS)]
        tfds.dataset_builders.store_as_tfds_dataset(
            name=dataset,
            version=version,
            features=features,
            split_datasets={"train": rows, "validation": rows, "test": rows},
            data_dir=str(tmp_path),
        )

    seqio.utils.set_tfds_data_dir_override(str(tmp_path))
    with settings.using(data_dir=None, vocabulary=vocabulary):
        yield store
    seqio.utils.set_tfds_data_dir_override(None)


def texts(name):
    dataset = seqio.get_mixture_or_task(name).get_dataset(LENGTHS, "validation", shuffle=False)
    return {
        (each["inputs_pretokenized"].decode(), each["targets_pretokenized"].decode())
        for each in dataset.as_numpy_iterator()
    }


def test_t5s_form(stored):
    stored("cnn_dailymail", "3.4.0", summarization.T5["cnn_dailymail"])
    expected = {(f"summarize: {text}", summary) for text, summary in ROWS}
    assert texts("cnn_dailymail_v340") == texts("cnn_dailymail_v340_examples") == expected


def test_the_form_of_prompt_transfer(stored):
    stored("samsum", "1.0.0", summarization.SPOT["samsum"])
    expected = {(f"samsum summarize: {text}", summary) for text, summary in ROWS}
    assert texts("spot_samsum_v100") == expected


def test_scores_are_rouge(stored, vocabulary):
    pytest.importorskip("rouge_score", reason=NEEDS_DATA_EXTRA)
    stored("xsum", "1.1.0", summarization.T5["xsum"])
    task = seqio_task(
        "xsum_v110_examples", "prompt_tuning_jax.tasks.summarization", vocabulary, LENGTHS
    )
    targets = [e["target_text"] for e in task.split("validation").stream(seed=None, epoch=0)]
    scores = task.score(targets, targets)
    assert scores == pytest.approx(
        {"rouge1": 100, "rouge2": 100, "rougeLsum": 100, "mean": 100}, abs=1e-6
    )
    assert task.score(targets, ["nothing"] * 2)["mean"] == 0


def test_the_references_names_are_registered():
    names = set(seqio.TaskRegistry.names())
    for name in (
        *("xsum_v110", "cnn_dailymail_v310", "spot_aeslc_v100", "spot_billsum_v300"),
        *("spot_gigaword_v120", "spot_cnn_dailymail_v320", "spot_multi_news_v100"),
        *("spot_samsum_v100", "spot_newsroom_v100"),
    ):
        assert {name, f"{name}_examples"} <= names
