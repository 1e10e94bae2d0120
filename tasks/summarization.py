"""Summaries, scored by ROUGE.

    xsum_v110, cnn_dailymail_v310      "summarize: " and the text, as T5 has them
    spot_samsum_v100, ...              "samsum summarize: " and the text: source tasks of prompt
                                       transfer (Vu et al. 2022, "SPoT")

All come from TFDS, whatever `settings.data_dir()` says: none has a release form that holds texts
and summaries together. For XSum and Newsroom, TFDS says what has to be downloaded by hand. A name's
version is that of TFDS's data; where TFDS no longer makes it, there is a second name for the
version that it does make. BillSum has no validation split. Each name also exists with `_examples`
after it (`tasks.generation_forms`).
"""

from collections.abc import Callable
from typing import NamedTuple

import seqio
import tensorflow as tf

from prompt_tuning_jax.tasks import metrics
from prompt_tuning_jax.tasks.generation_forms import add_forms


class Summaries(NamedTuple):
    """A data set of TFDS, and the fields that hold a text and its summary."""

    versions: tuple[str, ...]
    text: str
    summary: str
    splits: tuple[str, ...] = ("train", "validation", "test")


T5 = {
    "xsum": Summaries(("1.1.0",), "document", "summary"),
    "cnn_dailymail": Summaries(("3.1.0", "3.4.0"), "article", "highlights"),
}
SPOT = {
    "aeslc": Summaries(("1.0.0",), "email_body", "subject_line"),
    "billsum": Summaries(("3.0.0",), "text", "summary", ("train", "test", "ca_test")),
    "cnn_dailymail": Summaries(("3.2.0", "3.4.0"), "article", "highlights"),
    "gigaword": Summaries(("1.2.0",), "document", "summary"),
    "multi_news": Summaries(("1.0.0", "2.1.0"), "document", "summary"),
    "newsroom": Summaries(("1.0.0",), "text", "summary"),
    "samsum": Summaries(("1.0.0",), "dialogue", "summary"),
}


def summarize(prefix: str, data: Summaries) -> Callable:
    """A preprocessor to "`prefix` text" and the summary."""

    @seqio.map_over_dataset
    def preprocess(record):
        inputs = tf.strings.join([prefix, record[data.text]], separator=" ")
        return {"inputs": inputs, "targets": record[data.summary]}

    return preprocess


def _register(name: str, dataset: str, prefix: str, data: Summaries) -> None:
    for version in data.versions:
        add_forms(
            f"{name}_v{version.replace('.', '')}",
            seqio.TfdsDataSource(
                f"{dataset}:{version}", splits={split: split for split in data.splits}
            ),
            [summarize(prefix, data)],
            metrics=[metrics.rouge],
        )


for _dataset, _data in T5.items():
    _register(_dataset, _dataset, "summarize:", _data)
for _dataset, _data in SPOT.items():
    _register(f"spot_{_dataset}", _dataset, f"{_dataset} summarize:", _data)
