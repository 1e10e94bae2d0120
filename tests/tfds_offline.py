"""Records without downloads: TFDS's own builders on release files, and raw ones through a task."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds


@contextlib.contextmanager
def tfds_from_release(name: str, release: Path, folder: Path) -> Iterator[None]:
    """Prepares a TFDS data set below `folder` from release files, and has SeqIO read it there.

    Args:
      release: what an extracted archive of the data set's would be.
    """

    def local(_, url):
        if isinstance(url, dict):  # files one by one
            return {key: release / _file(name, key) for key in url}
        return release / "diagnostic/diagnostic.tsv" if "bit.ly" in url else release

    manager = tfds.download.DownloadManager
    with (
        mock.patch.object(manager, "download_and_extract", local),
        mock.patch.object(manager, "download", local),
    ):
        tfds.builder(name, data_dir=folder).download_and_prepare()
    seqio.set_tfds_data_dir_override(str(folder))
    try:
        yield
    finally:
        seqio.set_tfds_data_dir_override(None)


def _file(name: str, key: str) -> str:
    if name.startswith("definite_pronoun"):
        return f"{key}.c.txt"
    return "MRPC/dev_ids.tsv" if key == "dev_ids" else f"MRPC/msr_paraphrase_{key}.txt"


def assert_same_records(first, second) -> None:
    """Two data sets hold the same records, down to their types, in any order."""
    assert first.element_spec == second.element_spec
    left, right = (sorted(map(frozen, data.as_numpy_iterator())) for data in (first, second))
    assert left == right
    assert left


def frozen(record):
    """A record as a tuple of (field, type, text)."""
    flat = {}
    for name, value in record.items():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{name}/{part}": np.asarray(each) for part, each in nested}
    return tuple((name, str(each.dtype), str(each.tolist())) for name, each in sorted(flat.items()))


def generated(name: str, folder: Path, **arguments) -> list[dict]:
    """The examples that a TFDS builder reads from a release file, in its order, as plain Python."""
    builder = tfds.builder(name, data_dir=folder)
    features = builder.info.features
    examples = [features.encode_example(ex) for _, ex in builder._generate_examples(**arguments)]
    return [{name: _plain(value) for name, value in example.items()} for example in examples]


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def decoded(value):
    if isinstance(value, bytes):
        return value.decode()
    value = value.tolist() if hasattr(value, "tolist") else value
    return [decoded(each) for each in value] if isinstance(value, list) else value


def texts(task, raw, signature):
    """What a task's preprocessors before tokenisation make of raw records."""
    data = tf.data.Dataset.from_generator(lambda: iter(raw), output_signature=signature)
    for step in task.preprocessors:
        if step is seqio.preprocessors.tokenize:
            break
        data = step(data)
    return [{k: decoded(v) for k, v in example.items()} for example in data.as_numpy_iterator()]
