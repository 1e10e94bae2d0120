"""Documents' vectors in a folder, made once: a tuned query side is asked of the same ones.

index.json        which model made them and how, and of which documents
vectors.npy       [N, E] float32, float16 or int8, in the order of documents.jsonl
scales.npy        [N] float32, of int8: what a row is multiplied by
documents.jsonl   {"_id": ..., "text": ...} for each row
"""

import dataclasses
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.checkpoints.atomic import scratch_directory
from prompt_tuning_jax.embedding import EmbeddingModel, load_embedding_model
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.evaluation.retrieval.exact_search import Found, nearest
from prompt_tuning_jax.models.embedding.stored import as_dtype, checked_dtype

FILE = "index.json"
PROMPT = "prompt"  # what it says of the prompt that was before the documents, if there was one
# What vectors of one space have in common; of which thing errors speak.
_SPACE = {
    "fingerprint": "model",
    "vocabulary_hash": "vocabulary",
    "pooling": "pooling",
    "normalizes": "normalization",
    "numbers": "length",
}


@dataclasses.dataclass(frozen=True)
class Store:
    """Documents and their vectors.

    Attributes:
      ids, texts: of each row.
      vectors: [N, E]; of a file, mapped and not read.
      facts: what `index.json` says: what tells the space of the vectors from others, where the
        model was (`model`), the `name` of its text prompt, `corpus` (the digest of ids and texts),
        `prompt` (that of the tuned prompt before the documents, None where there was none).
      scales: of int8 vectors.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    vectors: np.ndarray
    facts: Mapping[str, Any]
    scales: Float[np.ndarray, " N"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, queries: Float[np.ndarray, "Q E"], k: int) -> Found:
        """The k nearest documents of each query, compared with every one."""
        return nearest(queries, self.vectors, k, self.scales)

    def rows(self, numbers: np.ndarray) -> Float[np.ndarray, "... E"]:
        """Some of the vectors, as float32."""
        found = np.asarray(self.vectors[numbers], np.float32)
        return found if self.scales is None else found * self.scales[numbers][..., None]

    def load_model(self, source: str | None = None, **options: Any) -> EmbeddingModel:
        """The model whose queries these vectors are for.

        Args:
          source: where it is; None: where it was when it made them.
          options: as of `load_embedding_model`.

        Raises:
          FileNotFoundError: it is not there any more.
          ValueError: another one is.
        """
        how = self.facts["pooling"], self.facts["normalizes"]
        model = load_embedding_model(source or self.facts["model"], *how, **options)
        self.check(model)
        return model

    def check(
        self,
        model: EmbeddingModel,
        path: str | Path = "The store",
        remedy: str = "Make it again with `prompt-tuning index`.",
    ) -> None:
        """Refuses, with a ValueError, vectors in which this model's queries find nothing."""
        asked = space_of(model) | {"numbers": model.config.outputs}
        for name, what in _SPACE.items():
            if self.facts[name] != asked[name]:
                raise ValueError(
                    f"{path} holds vectors of another {what}: queries of {model.name} have no "
                    f"space in common with them. {remedy}"
                )


def make_store(
    documents: Mapping[str, str],
    vectors: Float[np.ndarray, "N E"],
    model: EmbeddingModel,
    dtype: str = "float32",
    name: str | None = None,
    prompt: str | None = None,
) -> Store:
    """A store in memory.

    Args:
      documents: id -> text, in the order of the vectors.
      model: what made them.
      dtype: how to keep them, of `models.embedding.stored.DTYPES`.
      name: of the text prompt that stood before each document.
      prompt: the digest of the tuned prompt before each, of `sides.digest_of`.
    """
    if not model.config.normalizes:
        warnings.warn(
            f"the vectors of {model.name} have no length in common, and documents are found by "
            f"inner products; {spelled('normalize', 'true')} finds them by cosines, as "
            "sentence-transformers does where a model's files say nothing else.",
            stacklevel=2,
        )
    kept, scales = with_precision(vectors, dtype)
    facts = {
        "count": len(documents),
        "numbers": int(vectors.shape[1]),
        "dtype": dtype,
        "name": name,
        PROMPT: prompt,
        "model": str(Path(model.name).resolve()) if Path(model.name).exists() else model.name,
        **space_of(model),
        "corpus": digest(documents),
    }
    return Store(list(documents), list(documents.values()), kept, facts, scales)


def save_store(store: Store, folder: str | os.PathLike[str]) -> None:
    """Writes a store; one that was there is replaced when the new one is whole."""
    folder = Path(folder)
    check_place(folder)
    with scratch_directory(folder) as partial:
        np.save(partial / "vectors.npy", store.vectors)
        if store.scales is not None:
            np.save(partial / "scales.npy", store.scales)
        with open(partial / "documents.jsonl", "w", encoding="utf-8") as file:
            for identifier, text in zip(store.ids, store.texts, strict=True):
                record = {"_id": identifier, "text": text}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        (partial / FILE).write_text(json.dumps(dict(store.facts), indent=1) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)


def check_place(folder: str | os.PathLike[str]) -> None:
    """Refuses, with a ValueError, a folder that holds something else than an index, or a file."""
    folder = Path(folder)
    if folder.is_file() or (
        folder.exists() and not (folder / FILE).is_file() and any(folder.iterdir())
    ):
        raise ValueError(f"{folder} is there and holds no index: name another folder.")


def load_store(folder: str | os.PathLike[str]) -> Store:
    """The store in a folder; its vectors are mapped.

    Raises:
      FileNotFoundError: there is none.
      ValueError: its files do not belong together.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"{folder} holds no {FILE}: make it with `prompt-tuning index`.")
    try:
        return _read(folder)
    except (ValueError, KeyError, TypeError, EOFError, OSError) as error:
        raise ValueError(
            f"{folder} is no whole index ({type(error).__name__}: {error}): make it again with "
            "`prompt-tuning index`."
        ) from error


def _read(folder: Path) -> Store:
    facts = json.loads((folder / FILE).read_text())
    vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    scales = None
    if facts["dtype"] == "int8":
        scales = np.load(folder / "scales.npy", allow_pickle=False)
    with open(folder / "documents.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    ids, texts = ([record[key] for record in records] for key in ("_id", "text"))
    shapes = {vectors.shape, (facts["count"], facts["numbers"]), (len(ids), vectors.shape[-1])}
    if len(shapes) > 1 or (scales is not None and scales.shape != vectors.shape[:1]):
        raise ValueError(f"{len(ids)} documents and vectors {list(vectors.shape)}")
    missing = [name for name in (*_SPACE, "name", "model", "corpus") if name not in facts]
    if missing:
        raise KeyError(missing[0])
    return Store(ids, texts, vectors, facts, scales)


def space_of(model: EmbeddingModel) -> dict[str, Any]:
    """What vectors must have in common to be compared, as JSON values."""
    config = model.config
    return {**model.identity, "pooling": list(config.pooling), "normalizes": config.normalizes}


def digest(documents: Mapping[str, str]) -> str:
    """Of ids and texts in their order."""
    hashed = hashlib.sha256()
    for identifier, text in documents.items():
        hashed.update(json.dumps([identifier, text]).encode())
    return hashed.hexdigest()


def with_precision(
    vectors: Float[np.ndarray, "N E"], dtype: str
) -> tuple[np.ndarray, Float[np.ndarray, " N"] | None]:
    """Vectors as they are kept, and of int8 what each is multiplied by."""
    kept = as_dtype(vectors, checked_dtype(dtype))
    if dtype != "int8":
        return kept, None
    return kept, (np.abs(vectors).max(axis=1) / 127).astype(np.float32)
