"""How every task and mixture here is registered with SeqIO.

A task is a source, preprocessors that turn a record into `inputs` and `targets` texts, and metrics.
Its features follow `settings.vocabulary()` at the moment of use, so the same task serves T5, mT5
and the bundled model. `VERBALIZERS` keeps the legal answers of tasks that have some.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import seqio
import tensorflow as tf

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.tasks import settings

FEATURES = ("inputs", "targets")

# Task or mixture name -> its legal answers. Task modules offer it to whoever loads their tasks.
VERBALIZERS: dict[str, tuple[str, ...]] = {}

Record = Mapping[str, Any]


class Reader(Protocol):
    """A data set in its official release form, below the directory `settings.data_dir()`.

    Attributes:
      splits: their names, as TFDS has them.
      signature: `tf.TensorSpec`s of a record's features: the names and types that TFDS gives.
    """

    splits: Sequence[str]
    signature: Mapping[str, Any]

    def records(self, root: Path, split: str) -> Iterable[Record]:
        """The records of a split, in the file's order.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: a malformed line, or a damaged archive.
        """


class ReleaseOrTfds(seqio.DataSource):
    """Reads the official release files if `settings.data_dir()` names a directory, else TFDS.

    Both give the same records: feature names, types and label numbers are TFDS's. A release file is
    read and checked as a whole before its first record is used, so that a malformed line stops the
    run at once and not in the middle.
    """

    def __init__(
        self,
        tfds_name: str,
        reader: Reader,
        splits: Sequence[str] | Mapping[str, str] | None = None,
    ):
        """Reads nothing yet.

        Args:
          tfds_name: "name/configuration:version".
          splits: those of the reader's to offer, or their new names, {new: reader's}.
        """
        self._reader = reader
        splits = reader.splits if splits is None else splits
        self._named = dict(
            splits if isinstance(splits, Mapping) else zip(splits, splits, strict=True)
        )
        self._tfds = seqio.TfdsDataSource(tfds_name, splits=self._named)
        self._sizes: dict[tuple[str, str], int] = {}
        super().__init__(splits=tuple(self._named))

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        return [split] if settings.data_dir() else self._tfds.list_shards(split)

    def num_input_examples(self, split: str) -> int | None:
        root = settings.data_dir()
        if root is None:
            return self._tfds_size(split)
        if (root, split) not in self._sizes:
            self._sizes[root, split] = sum(1 for _ in self._records(root, split))
        return self._sizes[root, split]

    def get_dataset(
        self, split="train", shuffle=True, seed=None, shard_info=None, **unused
    ) -> tf.data.Dataset:
        if split not in self._named:
            raise ValueError(
                f"{self._tfds.tfds_dataset.name} has no split {split!r}; it has "
                f"{', '.join(self._named)}"
            )
        root = settings.data_dir()
        if root is None:
            return self._from_tfds(split, shuffle, seed, shard_info)
        records = list(self._records(root, split))
        self._sizes[root, split] = len(records)
        if shuffle:
            random.Random(None if seed is None else int(seed)).shuffle(records)
        return tf.data.Dataset.from_generator(
            lambda: iter(records), output_signature=self._reader.signature
        )

    def _from_tfds(self, *arguments) -> tf.data.Dataset:
        try:
            return self._tfds.get_dataset(*arguments)
        except Exception as error:
            error.add_note(
                f"TFDS could not give {self._tfds.tfds_dataset.name}. To read its release files "
                f"instead, set {spelled('data_dir')} or {settings.ENVIRONMENT['data_dir']} "
                "to the directory "
                "that holds them."
            )
            raise

    def _tfds_size(self, split: str) -> int | None:
        try:
            return self._tfds.num_input_examples(split)
        except KeyError:  # TFDS does not know before it has prepared the data
            return None

    def _records(self, root: str, split: str) -> Iterable[Record]:
        if not Path(root).is_dir():
            raise FileNotFoundError(
                f"No data directory {root}. Set {spelled('data_dir')} or "
                f"{settings.ENVIRONMENT['data_dir']} to "
                "the directory with the data sets, or leave both out to read from TFDS."
            )
        return self._reader.records(Path(root), self._named[split])


class _Features(Mapping):
    """`inputs` and `targets`, with the vocabulary that is chosen when they are asked for."""

    def __getitem__(self, name: str) -> seqio.Feature:
        if name not in FEATURES:
            raise KeyError(name)
        return seqio.Feature(settings.vocabulary(), add_eos=True, required=name == "targets")

    def __iter__(self) -> Iterator[str]:
        return iter(FEATURES)

    def __len__(self) -> int:
        return len(FEATURES)


class _Task(seqio.Task):
    """A task whose features have the vocabulary that is chosen when they are asked for.

    `use` is for who loads a task for a model: it tells all tasks here of the model's vocabulary.
    """

    use = staticmethod(settings.use)

    @property
    def output_features(self) -> Mapping[str, seqio.Feature]:
        return _Features()


def add(
    name: str,
    source: seqio.DataSource,
    preprocessors: Sequence[Callable],
    *,
    token_preprocessors: Sequence[Callable] = (),
    run_time_preprocessors: Sequence[Callable] = (),
    verbalizers: Sequence[str] | None = None,
    postprocess: Callable | None = None,
    metrics: Sequence[Callable] = (),
) -> seqio.Task:
    """Registers a task.

    Args:
      preprocessors: make `inputs` and `targets` texts of the source's records.
      token_preprocessors: work on token ids, before EOS is appended.
      run_time_preprocessors: the same, where they draw at random or ask for `sequence_length`, so
        that a cached task keeps what comes before them.
      verbalizers: the legal answers, if the task has a fixed set of them.
      postprocess: `(text, example=None, is_target=False)` -> what `metrics` compare.
      metrics: `(targets, predictions)` -> {name: value}.
    """
    task = _Task(
        name,
        source=source,
        output_features=dict.fromkeys(FEATURES),
        preprocessors=[
            *preprocessors,
            seqio.preprocessors.tokenize,
            *token_preprocessors,
            seqio.CacheDatasetPlaceholder(),
            *run_time_preprocessors,
            seqio.preprocessors.append_eos_after_trim,
        ],
        postprocess_fn=postprocess,
        metric_fns=list(metrics),
    )
    seqio.TaskRegistry.add_provider(name, task)
    if verbalizers is not None:
        VERBALIZERS[name] = tuple(verbalizers)
    return task


def add_mixture(name: str, rates: Mapping[str, float] | Sequence[str]) -> seqio.Mixture:
    """Registers a mixture of registered tasks at their rates, or in equal parts.

    Its verbalizers are those of its tasks, if these have the same.

    Raises:
      ValueError: a task is not registered.
    """
    rates = rates if isinstance(rates, Mapping) else dict.fromkeys(rates, 1.0)
    unknown = [task for task in rates if task not in seqio.TaskRegistry.names()]
    if unknown:
        raise ValueError(f"mixture {name!r} names tasks that are not registered: {unknown}")
    mixture = seqio.MixtureRegistry.add(name, list(rates.items()))
    answers = {VERBALIZERS.get(task) for task in rates}
    if len(answers) == 1 and None not in answers:
        VERBALIZERS[name] = answers.pop()
    return mixture
