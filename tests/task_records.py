"""Small made-up records of every data set, in the official release formats.

`write_release(root)` writes them below a directory, as the releases lay them out. Each labelled
split holds every label, so that a perfect prediction has the best score of any metric.
"""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]
BIRDS = "The heron stood in the reeds. A gull took its fish, and the heron flew off."
SPLITS = ("train", "val", "test")


def _split(records: Sequence[Json], split: str, label: str = "label") -> list[Json]:
    """The records as a release has them in a split: numbered, and without labels in `test`."""
    numbered = [{**record, "idx": index} for index, record in enumerate(records)]
    if split != "test":
        return numbered
    return [{k: v for k, v in record.items() if k != label} for record in numbered]


BOOLQ = [
    {"question": "is a heron a bird", "passage": f"Heron -- {BIRDS}", "label": True},
    {"question": "is a gull a fish", "passage": f"Gull -- {BIRDS}", "label": False},
]
CB = [
    {"premise": "It rained. She took her coat.", "hypothesis": "she was dry", "label": label}
    for label in ("entailment", "contradiction", "neutral")
]
COPA = [
    {
        "premise": "The lamp went out.",
        "choice1": "The oil was used up.",
        "choice2": "The sun rose.",
        "question": question,
        "label": label,
    }
    for question, label in (("cause", 0), ("effect", 1))
]
RTE = [
    {"premise": BIRDS, "hypothesis": "A gull took a fish.", "label": "entailment"},
    {"premise": BIRDS, "hypothesis": "The heron slept.", "label": "not_entailment"},
]
WIC = [
    {
        "word": "bank",
        "sentence1": "They sat on the bank.",
        "sentence2": "The bank was steep.",
        "label": label,
        "start1": 16,
        "start2": 4,
        "end1": 20,
        "end2": 8,
        "version": 1.1,
    }
    for label in (True, False)
]
WSC = [
    {
        "text": "Anna told Berta that she had won.",
        "target": {
            "span1_index": index,
            "span1_text": name,
            "span2_index": 4,
            "span2_text": "she",
        },
        "label": label,
    }
    for index, name, label in ((0, "Anna", True), (2, "Berta", False))
]
AXB = [
    {
        "sentence1": "The cat sat.",
        "sentence2": "A cat sat.",
        "logic": "",
        "label": label,
        "idx": index,
    }
    for index, label in enumerate(("entailment", "not_entailment"))
]
AXG = [
    {
        "premise": "The nurse met the clerk because she was ill.",
        "hypothesis": "The nurse was ill.",
        "label": label,
        "idx": index,
        "pair_id": 0,
    }
    for index, label in enumerate(("entailment", "not_entailment"))
]


def _multirc(split: str) -> list[Json]:
    answers = [{"text": "A gull", "idx": 0, "label": 1}, {"text": "A heron", "idx": 1, "label": 0}]
    more = [{"text": "In reeds", "idx": 2, "label": 1}, {"text": "At sea", "idx": 3, "label": 0}]
    if split == "test":
        for answer in (*answers, *more):
            del answer["label"]
    questions = [
        {"question": "Who took the fish?", "answers": answers, "idx": 0},
        {"question": "Where did it stand?", "answers": more, "idx": 1},
    ]
    return [{"idx": 0, "version": 1.1, "passage": {"text": BIRDS, "questions": questions}}]


def _record(split: str) -> list[Json]:
    text = "Anna met Berta in Lund. Berta left.\n@highlight\n\nAnna stayed in Lund"
    spans = [{"start": 0, "end": 3}, {"start": 9, "end": 13}, {"start": 18, "end": 21}]
    answers = [
        {"start": 0, "end": 3, "text": "Anna"},
        {"start": 47, "end": 50, "text": "Anna"},
        {"start": 9, "end": 13, "text": "Berta"},
    ]
    queries = [{"query": "@placeholder stayed behind.", "idx": 0, "answers": answers}]
    if split == "test":
        del queries[0]["answers"]
    passage = {"text": text, "entities": spans}
    return [{"source": "made up", "passage": passage, "qas": queries, "idx": 0}]


def _super_glue() -> dict[str, list[Json]]:
    labelled = {"BoolQ": BOOLQ, "CB": CB, "COPA": COPA, "RTE": RTE, "WiC": WIC, "WSC": WSC}
    files = {
        f"superglue/{name}/{split}.jsonl": _split(records, split)
        for name, records in labelled.items()
        for split in SPLITS
    }
    for split in SPLITS:
        files[f"superglue/MultiRC/{split}.jsonl"] = _multirc(split)
        files[f"superglue/ReCoRD/{split}.jsonl"] = _record(split)
    return files | {"superglue/AX-b/AX-b.jsonl": AXB, "superglue/AX-g/AX-g.jsonl": AXG}


PAIR = ("Is the river deep ?", "How deep is the river ?")
PAIRS = (PAIR, ("Anna sang .", "The well was dry ."))
TREES = ("-", "-", "-", "-")  # MNLI's parses, which no task reads
NLI = ("entailment", "neutral", "contradiction")
STSB = ("genre", "filename", "year", "old_index", "source1", "source2")


def _mnli(split: str) -> list[Sequence[Any]]:
    annotators = {"train": ("label1",), "test": ()}.get(
        split.split("_")[0], tuple(f"label{number}" for number in range(1, 6))
    )
    trees = ("sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse")
    gold = () if split.startswith("test") else ("gold_label",)
    head = ("index", "promptID", "pairID", *trees, "sentence2_parse", "sentence1", "sentence2")
    rows = [
        (
            index,
            "1",
            f"{index}p",
            *TREES,
            *PAIR,
            *(label for _ in annotators),
            *(label for _ in gold),
        )
        for index, label in enumerate(NLI)
    ]
    return [("index", *head[1:], *annotators, *gold), *rows]


def _numbered(head: Sequence[str], texts: Iterable[Sequence[str]], labels: Sequence[Any] | None):
    """A header, and rows of an index, texts and, where there are labels, a label."""
    rows = [(index, *text) for index, text in enumerate(texts)]
    if labels is None:
        return [("index", *head), *rows]
    rows = [(*row, label) for row, label in zip(rows, labels, strict=True)]
    return [("index", *head, "score" if head[0] == "genre" else "label"), *rows]


def _glue() -> dict[str, list[Sequence[Any]]]:
    entail = ("entailment", "not_entailment")
    sts = [("main", "made up", "2012", "0001", "none", "none", *pair) for pair in (*PAIRS, PAIR)]
    files = {
        f"MNLI/{split}.tsv": _mnli(split)
        for split in (
            "train",
            "dev_matched",
            "dev_mismatched",
            "test_matched",
            "test_mismatched",
        )
    }
    for split in ("train", "dev", "test"):
        known = split != "test"
        texts = ("a good day ", "a wet day ")
        cola = [("gj04", 1, "", "Anna sang."), ("gj04", 0, "*", "Sang Anna the.")]
        hidden = [("index", "sentence"), *((i, row[3]) for i, row in enumerate(cola))]
        files |= {
            f"CoLA/{split}.tsv": cola if known else hidden,
            f"SST-2/{split}.tsv": [("sentence", "label"), *zip(texts, (1, 0), strict=True)]
            if known
            else [("index", "sentence"), *enumerate(texts)],
            f"MRPC/{split}.tsv": [
                ("Quality" if known else "index", "#1 ID", "#2 ID", "#1 String", "#2 String"),
                *((1 - index, 10, 11, *pair) for index, pair in enumerate(PAIRS)),
            ],
            f"QQP/{split}.tsv": [
                ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
                *((i, 2 * i, 2 * i + 1, *pair, 1 - i) for i, pair in enumerate(PAIRS)),
            ]
            if known
            else [("id", "question1", "question2"), *((i, *p) for i, p in enumerate(PAIRS))],
            f"STS-B/{split}.tsv": _numbered(
                (*STSB, "sentence1", "sentence2"), sts, ("5.000", "0.400", "2.6") if known else None
            ),
            f"QNLI/{split}.tsv": _numbered(
                ("question", "sentence"), PAIRS, entail if known else None
            ),
            f"RTE/{split}.tsv": _numbered(
                ("sentence1", "sentence2"), PAIRS, entail if known else None
            ),
            f"WNLI/{split}.tsv": _numbered(
                ("sentence1", "sentence2"), PAIRS, (1, 0) if known else None
            ),
        }
    files["diagnostic/diagnostic.tsv"] = _numbered(("sentence1", "sentence2"), PAIRS, None)
    return {f"glue/{name}": rows for name, rows in files.items()}


def _squad() -> Json:
    def question(number: int, text: str, *answers: str) -> Json:
        found = [{"text": answer, "answer_start": BIRDS.index(answer)} for answer in answers]
        return {"id": f"q{number}", "question": text, "answers": found}

    questions = [
        question(0, "Who took the fish?", "A gull", "gull"),
        question(1, "Where did the heron stand?", "in the reeds"),
    ]
    paragraphs = [{"context": BIRDS, "qas": questions}]
    return {"version": "1.1", "data": [{"title": "Birds", "paragraphs": paragraphs}]}


# fmt: off
MRQA_IN_DOMAIN = (
    "SQuAD", "NewsQA", "TriviaQA-web", "SearchQA", "HotpotQA", "NaturalQuestionsShort",
)
MRQA_OUT_OF_DOMAIN = (
    "BioASQ", "DROP", "DuoRC.ParaphraseRC", "RACE", "RelationExtraction", "TextbookQA",
)
# fmt: on


def mrqa_lines(name: str) -> list[Json]:
    """An MRQA file: a header, then one context a line."""
    span = {"text": "A gull", "char_spans": [[30, 35]], "token_spans": [[7, 8]]}
    asked = {
        "id": "i0",
        "qid": f"{name}-0",
        "question": "Who took the fish?",
        "question_tokens": [["Who", 0]],
        "answers": ["A gull", "gull"],
        "detected_answers": [span],
    }
    header = {"header": {"dataset": name, "split": "dev"}}
    return [header, {"context": BIRDS, "context_tokens": [["The", 0]], "qas": [asked]}]


SUMMARY = {"document": BIRDS, "summary": "A gull robbed a heron."}
# A record as TFDS gives it, of the data sets that are read from TFDS alone.
TFDS = {
    "xsum": {**SUMMARY, "id": "0"},
    "cnn_dailymail": {"article": BIRDS, "highlights": SUMMARY["summary"], "id": "0"},
    "aeslc": {"email_body": BIRDS, "subject_line": SUMMARY["summary"]},
    "billsum": {"text": BIRDS, "summary": SUMMARY["summary"], "title": "Birds"},
    "gigaword": SUMMARY,
    "multi_news": SUMMARY,
    "newsroom": {"text": BIRDS, "summary": SUMMARY["summary"], "title": "Birds"},
    "samsum": {"dialogue": BIRDS, "summary": SUMMARY["summary"], "id": "0"},
}


DPR = """The gull robbed the heron because it was slow.
it
The gull,The heron
The heron

"""
TEXT = " ".join([BIRDS] * 6)


def write_release(root: Path) -> Path:
    """Writes every data set below `root`, and returns it."""
    for name, records in _super_glue().items():
        _write(root / name, _json_lines(records))
    for name, rows in _glue().items():
        _write(root / name, "".join("\t".join(map(str, row)) + "\n" for row in rows))
    for split in ("train", "dev"):
        _write(root / f"squad/{split}-v1.1.json", json.dumps(_squad()))
    for name in (*MRQA_IN_DOMAIN, *MRQA_OUT_OF_DOMAIN):
        for part in ("train", "dev") if name in MRQA_IN_DOMAIN else ("dev",):
            _write(root / f"mrqa/{part}/{name}.jsonl.gz", _json_lines(mrqa_lines(name)))
    for split in ("train", "test"):
        _write(root / f"dpr/{split}.c.txt", DPR)
    for split, folder in (("train", "text"), ("validation", "text/validation")):
        shard = f"c4-{split}.00000-of-00008.json.gz"
        _write(root / "c4/en" / shard, _json_lines([{"text": TEXT, "url": "-", "timestamp": "-"}]))
        _write(root / folder / "birds.txt", TEXT)
    return root


def _json_lines(records: Iterable[Json]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode("utf-8")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
