"""Documents, queries, and which answers which: a folder in the form of the BEIR benchmark.

    corpus.jsonl        {"_id": "d7", "title": "...", "text": "..."}     (the title may be absent)
    queries.jsonl       {"_id": "q1", "text": "..."}
    qrels/train.tsv     query-id <tab> corpus-id <tab> score             (the score may be absent)
    qrels/dev.tsv       the same, to evaluate on; qrels/test.tsv likewise

Any of them may be .jsonl, .tsv or .csv with those fields. A score is a grade: 1 or more for a
document that answers, 0 for one that was looked at and does not, which then is a hard negative.

Or a folder of pairs, in which every first text is a query and every second one a document:

    train.jsonl         {"text_a": "...", "text_b": "...", "score": 4.5}  (the score may be absent)
    dev.jsonl           the same, to evaluate on; test.jsonl likewise
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prompt_tuning_jax.data.records import FORMATS, RecordFile
from prompt_tuning_jax.data.records.splits import find_splits, splits_named_in
from prompt_tuning_jax.data.templates import check_unicode
from prompt_tuning_jax.errors import spelled

Grades = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> grade."""
SIMILAR = 0.8  # how far up the range of scores a pair says the same, where nobody says


class Scored(NamedTuple):
    """A pair, and how alike its texts are."""

    query: str
    document: str
    score: float


@dataclasses.dataclass(frozen=True)
class Collection:
    """What a folder holds.

    Attributes:
      documents: id -> text, the title before it.
      queries: id -> text.
      grades: split (train, validation, test) -> the grades of its queries.
      files: what was read.
      scored: split -> its pairs in order, where these have scores.
    """

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    grades: Mapping[str, Grades]
    files: tuple[Path, ...] = ()
    scored: Mapping[str, Sequence[Scored]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for split, graded in self.grades.items():
            for query, documents in graded.items():
                if query not in self.queries:
                    raise ValueError(f"qrels of {split}: there is no query {query!r} in queries.")
                for document in documents:
                    if document not in self.documents:
                        raise ValueError(
                            f"qrels of {split}: query {query!r} names the document {document!r}, "
                            "which is not in the corpus."
                        )

    def split(self, name: str) -> Grades:
        """The queries of a split that some document answers.

        Raises:
          ValueError: there is none.
        """
        if name not in self.grades:
            found = ", ".join(self.grades) or "none"
            raise ValueError(f"There are no qrels of the split {name!r}; there are: {found}.")
        answered = {
            query: graded
            for query, graded in self.grades[name].items()
            if any(grade > 0 for grade in graded.values())
        }
        if not answered:
            raise ValueError(f"qrels of {name}: no query has a document with a score above 0.")
        return answered


def read_collection(folder: str | Path, similar_from: float | None = None) -> Collection:
    """The collection in a folder.

    Args:
      similar_from: of pairs with scores, from which score on they say the same, which is grade 1;
        None: from four fifths of the way between the least and the greatest of train.

    Raises:
      ValueError, FileNotFoundError: a file is missing, or a record is not as it must be.
    """
    folder = Path(folder)
    if _holds_pairs(folder):
        return _read_pairs(folder, similar_from)
    if similar_from is not None:
        raise ValueError(
            f"{spelled('similar_from')} is for pairs with scores, and {folder} is in BEIR's form, "
            "with grades: leave it out."
        )
    corpus, queries = (_only(folder, name) for name in ("corpus", "queries"))
    grades, files = {}, [corpus, queries]
    for path in sorted(_data_files(folder / "qrels")):
        splits = splits_named_in(path.stem)
        if len(splits) != 1:
            raise ValueError(f"{path}: name it for its split: train, dev or test.")
        (split,) = splits
        if split in grades:
            raise ValueError(f"{folder / 'qrels'} holds several files of the split {split}.")
        grades[split] = _read_grades(path)
        files.append(path)
    if not grades:
        raise FileNotFoundError(
            f"{folder / 'qrels'} holds no .tsv, .csv or .jsonl files, such as train.tsv, of which "
            "document answers which query."
        )
    return Collection(read_texts(corpus), read_texts(queries), grades, tuple(files))


def read_texts(path: str | Path, encoding: str | None = None) -> dict[str, str]:
    """Id -> text of a corpus or of queries, in the order of the file."""
    return texts_of(_records(Path(path), encoding), path)


def texts_of(
    records: Iterable[tuple[str, Mapping[str, Any]]], source: str | Path
) -> dict[str, str]:
    """Id -> text of records, each with the place where it stands.

    Args:
      source: what errors call all of them.
    """
    texts: dict[str, str] = {}
    for where, record in records:
        identifier = _field(record, ("_id", "id"), where)
        if identifier in texts:
            raise ValueError(f"{where}: the id {identifier!r} is there twice.")
        text = _field(record, ("text",), where)
        title = str(record.get("title") or "").strip()
        texts[identifier] = f"{title} {text}".strip()
    if not texts:
        raise ValueError(f"{source} holds no text.")
    return texts


def _holds_pairs(folder: Path) -> bool:
    names = {path.stem for path in _data_files(folder)}
    own = names & {"corpus", "queries"} or (folder / "qrels").exists()
    return not own and any(splits_named_in(name) for name in names)


def _read_pairs(folder: Path, similar_from: float | None) -> Collection:
    """Pairs as a collection; a text that is there several times is one query, or one document."""
    splits = find_splits(folder)
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    pairs: dict[str, list[tuple[str, str, float | None]]] = {}
    scored: dict[str, list[Scored]] = {}
    for split, files in splits.items():
        found = [pair for path in files for pair in _pairs_of(path, queries, documents)]
        if not found:
            raise ValueError(f"{files[0]} holds no pairs.")
        pairs[split] = found
        own = [Scored(one, other, score) for one, other, score in found if score is not None]
        if own and len(own) < len(found):
            raise ValueError(f"{files[0]}: some pairs have a score and some have none.")
        if own:
            scored[split] = own
    least = _least_similar(scored) if similar_from is None else similar_from
    grades: dict[str, dict[str, dict[str, int]]] = {}
    for split, found in pairs.items():
        judged = grades.setdefault(split, {})
        for query, document, score in found:
            grade = int(score is None or score >= least)
            of_query = judged.setdefault(query, {})
            of_query[document] = max(grade, of_query.get(document, 0))
    of_documents, of_queries = (
        {number: text for text, number in each.items()} for each in (documents, queries)
    )
    files = tuple(path for each in splits.values() for path in each)
    return Collection(of_documents, of_queries, grades, files, scored)


def _least_similar(scored: Mapping[str, Sequence[Scored]]) -> float:
    """The score from which on pairs say the same, where nobody says."""
    pairs = scored.get("train") or next(iter(scored.values()), ())
    scores = [pair.score for pair in pairs] or [0.0]
    return min(scores) + SIMILAR * (max(scores) - min(scores))


def _pairs_of(
    path: Path, queries: dict[str, str], documents: dict[str, str]
) -> Iterator[tuple[str, str, float | None]]:
    """The ids of each pair's texts, and its score; what is new is added to text -> id."""
    for where, record in _records(path):
        one = _field(record, ("text_a", "sentence1"), where)
        other = _field(record, ("text_b", "sentence2"), where)
        score = _score(record["score"], where) if "score" in record else None
        yield (
            queries.setdefault(one, f"a{len(queries)}"),
            documents.setdefault(other, f"b{len(documents)}"),
            score,
        )


def _read_grades(path: Path) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    for where, record in _records(path):
        query = _field(record, ("query-id", "query_id"), where)
        document = _field(record, ("corpus-id", "corpus_id"), where)
        judged = grades.setdefault(query, {})
        if document in judged:
            raise ValueError(f"{where}: query {query!r} and document {document!r} are there twice.")
        judged[document] = _grade(record.get("score", 1), where)
    return grades


def _grade(score: Any, where: str) -> int:
    number = _number(score)
    if not number.is_integer():
        raise ValueError(f"{where}: the score {score!r} is no whole number.")
    return int(number)


def _score(score: Any, where: str) -> float:
    number = _number(score)
    if not math.isfinite(number):
        raise ValueError(f"{where}: the score {score!r} is no number.")
    return number


def _number(score: Any) -> float:
    try:
        return math.nan if isinstance(score, bool) else float(score)
    except (TypeError, ValueError):
        return math.nan


def _records(path: Path, encoding: str | None = None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for _, line, record in RecordFile(path, encoding=encoding).scan():
        yield f"{path}, line {line}", record


def _field(record: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    name = next((name for name in names if name in record), None)
    if name is None:
        raise ValueError(
            f"{where}: there is no field {names[0]!r}; the fields are {', '.join(record)}."
        )
    value = record[name]
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"{where}: {name} must be text, not {value!r}.")
    check_unicode(str(value), f"{where}: {name}")
    return str(value)


def _only(folder: Path, stem: str) -> Path:
    found = [path for path in _data_files(folder) if path.stem == stem]
    if len(found) != 1:
        told = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(
            f"{folder} must hold one {stem}.jsonl (or .tsv, .csv) for {spelled('task_kind')} "
            f"retrieval, or pairs in train.jsonl; found: {told}."
        )
    return found[0]


def _data_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.suffix.lower() in FORMATS]
