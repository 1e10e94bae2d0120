"""Running text from files: C4's release, or a directory of .txt files. Each record is {"text"}.

Files are streamed, and dealt out to hosts one by one, because C4 does not fit in memory.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import seqio
import tensorflow as tf

from prompt_tuning_jax.data.pretraining import documents, read_text
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.tasks import settings
from prompt_tuning_jax.tasks.release import AGAIN, field, json_lines

SPLITS = ("train", "validation")


class TextRelease(Protocol):
    """Where the texts of a split lie, and how to read a file of them."""

    def files(self, root: Path, split: str) -> Sequence[str]:
        """The files below `settings.data_dir()`, in the order of their names.

        Raises:
          FileNotFoundError: there are none.
          ValueError: a file is not UTF-8 text.
        """

    def texts(self, file: str) -> Iterator[str]:
        """The file's documents.

        Raises:
          ValueError: a malformed line, or a damaged archive. It comes out of `tf.data` within an
            error of TensorFlow's.
        """


class C4Release:
    """C4's JSON: c4/en/c4-train.00000-of-01024.json.gz and so on, packed or not, all or some."""

    def files(self, root: Path, split: str) -> Sequence[str]:
        found = [
            str(path)
            for folder in (root / "c4" / "en", root / "c4")
            for path in sorted(folder.glob(f"c4-{split}.*.json*"))
        ]
        if not found:
            raise FileNotFoundError(
                f"No files {root}/c4/en/c4-{split}.*.json.gz. Put shards of C4's release there, or "
                "unset the data directory to read from TFDS."
            )
        return found

    def texts(self, file: str) -> Iterator[str]:
        for where, row in json_lines(file):
            text = field(row, "text", where)
            if not isinstance(text, str):
                raise ValueError(f"{where}: malformed line, 'text' is {text!r:.60}. {AGAIN}.")
            yield text


class TextFolder:
    """Files .txt (UTF-8) in the folder text/ or lm/, or where neither is, in the root; in pages.

    Subfolders count too. What is in the subfolder validation/ is held out, and all else trained on.
    """

    def files(self, root: Path, split: str) -> Sequence[str]:
        folder = next((f for f in (root / "text", root / "lm") if f.is_dir()), root)
        held_out = folder / "validation"
        found = [
            path
            for path in sorted(folder.rglob("*.txt"))
            if (held_out in path.parents) == (split == "validation")
        ]
        if not found:
            place = held_out if split == "validation" else folder
            raise FileNotFoundError(f"No .txt files in {place}: put prose there for {split}.")
        for path in found:
            read_text(path)  # so that a bad file stops the run before it begins
        return list(map(str, found))

    def texts(self, file: str) -> Iterator[str]:
        return iter(documents(read_text(Path(file))))


class Texts(seqio.FileDataSource):
    """{"text"} of a release below `settings.data_dir()`; if that is not set, of TFDS."""

    def __init__(self, release: TextRelease, tfds_name: str | None = None):
        self._release = release
        named = {split: split for split in SPLITS}
        self._tfds = tfds_name and seqio.TfdsDataSource(tfds_name, splits=named)
        super().__init__(self._read, dict.fromkeys(SPLITS, ""), block_length=1)

    def list_shards(self, split: str) -> Sequence[str]:
        root = settings.data_dir()
        if root is not None:
            return self._release.files(Path(root), split)
        if self._tfds:
            return self._tfds.list_shards(split)
        raise FileNotFoundError(
            f"No data directory to find text/ in: set {spelled('data_dir')} or "
            f"{settings.ENVIRONMENT['data_dir']}."
        )

    def num_input_examples(self, split: str) -> int | None:
        """TFDS's number; that of files is unknown before they are read."""
        return self._tfds and not settings.data_dir() and self._tfds.num_input_examples(split)

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **options):
        from_tfds = self._tfds and settings.data_dir() is None
        source = self._tfds if from_tfds else super()
        return source.get_dataset(split, shuffle, seed, shard_info, **options)

    def _read(self, file: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_generator(
            self._records, args=(file,), output_signature={"text": tf.TensorSpec((), tf.string)}
        )

    def _records(self, file: bytes) -> Iterator[dict[str, str]]:
        for text in self._release.texts(file.decode()):
            yield {"text": text}
