"""Tasks from files: what is read, and that every bad record is named."""

import collections
import json
import tracemalloc

import pytest
from common import NEEDS_SHARED, shared_dir

from prompt_tuning_jax.data.files import file_task
from prompt_tuning_jax.data.records import RecordFile
from prompt_tuning_jax.data.templates import Labels, Template

ROWS = [("a fine film", 1), ('dull , "dull" , dull', 0), ("caf\u00e9 noir", 1), ("no", 0)]
SENTIMENT = {
    "input_template": "sentence: {sentence}",
    "target_template": "{label}",
    "verbalizers": {"0": "negative", "1": "positive"},
}
EXAMPLES = [
    {"inputs": f"sentence: {text}", "targets": ["negative", "positive"][label]}
    for text, label in ROWS
]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def jsonl(path, records):
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


def examples(source, **order):
    return list(source.stream(**({"seed": None, "epoch": 0} | order)))


FORMATS = {
    "a.jsonl": "".join(json.dumps({"sentence": s, "label": y}) + "\n" for s, y in ROWS),
    "b.jsonl": "\ufeff"
    + "\r\n\r\n".join(json.dumps({"sentence": s, "label": y}, ensure_ascii=False) for s, y in ROWS),
    "c.tsv": "sentence\tlabel\n" + "".join(f"{s}\t{y}\n" for s, y in ROWS),
    "d.tsv": "\ufeffsentence\tlabel\r\n" + "\r\n".join(f"{s}\t{y}" for s, y in ROWS),
    "e.csv": "label,sentence\n"
    + "".join('{},"{}"\n'.format(y, s.replace('"', '""')) for s, y in ROWS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_examples(tmp_path, name):
    task = file_task(train=write(tmp_path / name, FORMATS[name]), **SENTIMENT)
    source = task.split("train")
    assert len(source) == 4
    assert examples(source) == EXAMPLES
    assert task.verbalizers == ("negative", "positive")
    assert task.score(["negative"], ["negative"]) == {"accuracy": 100.0}


def test_csv_fields_may_hold_line_ends(tmp_path):
    text = 'sentence,label\n"one\r\ntwo ""three""\n",1\nfour,0\n"fi,ve",1'
    source = file_task(train=write(tmp_path / "x.csv", text), **SENTIMENT).split("train")
    assert [e["inputs"] for e in examples(source)] == [
        'sentence: one\r\ntwo "three"\n',
        "sentence: four",
        "sentence: fi,ve",
    ]


def test_files_without_a_header_take_columns(tmp_path):
    path = write(tmp_path / "x.tsv", "1\t702\tgood\n0\t703\tbad\n")
    task = file_task(train=path, columns=["label", "id", "sentence"], **SENTIMENT)
    assert examples(task.split("train"))[1] == {"inputs": "sentence: bad", "targets": "negative"}


def test_order_depends_on_seed_and_epoch_only(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [{"sentence": str(i), "label": i % 2} for i in range(50)])
    source = file_task(train=path, **SENTIMENT).split("train")
    first = examples(source, seed=3, epoch=1)
    assert first == examples(source, seed=3, epoch=1)
    assert first != examples(source, seed=3, epoch=2)
    assert first != examples(source, seed=4, epoch=1)
    assert sorted(map(str, first)) == sorted(map(str, examples(source)))
    assert examples(source, seed=3, epoch=1, start=17) == first[17:]


def test_memory_does_not_grow_with_the_records(tmp_path):
    path = write(tmp_path / "x.tsv", "sentence\tlabel\n" + ("word " * 200 + "\t1\n") * 5000)
    assert path.stat().st_size > 5_000_000
    source = file_task(train=path, **SENTIMENT).split("train")
    tracemalloc.start()
    assert sum(1 for _ in source.stream(seed=0, epoch=0)) == 5000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


def test_directory_finds_its_splits(tmp_path):
    for name in ("train.tsv", "dev.tsv", "dev_ids.tsv"):
        write(tmp_path / name, FORMATS["c.tsv"])
    task = file_task(tmp_path, **SENTIMENT)
    assert set(task.splits) == {"train", "validation"}
    with pytest.raises(ValueError, match="no split 'test'; it has train, validation"):
        task.split("test")
    write(tmp_path / "val.jsonl", FORMATS["a.jsonl"])
    with pytest.raises(ValueError, match=r"dev.tsv and val.jsonl, .* both be the validation"):
        file_task(tmp_path, **SENTIMENT)
    chosen = file_task(tmp_path, validation=tmp_path / "val.jsonl", **SENTIMENT)
    assert chosen.splits["validation"].files == [tmp_path / "val.jsonl"]


def test_only_the_splits_in_use_are_checked(tmp_path):
    """Published test files have no labels, which must not keep anyone from training."""
    write(tmp_path / "train.tsv", FORMATS["c.tsv"])
    write(tmp_path / "test.tsv", "sentence\nunlabelled\n")
    task = file_task(tmp_path, **SENTIMENT)
    assert len(task.split("train")) == 4
    with pytest.raises(ValueError, match=r"test.tsv, line 2: No field 'label'"):
        task.split("test")


GOOD = '{"sentence": "a", "label": 0}\n'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "x.jsonl",
            GOOD + '{"sentence": "a" "label": 0}',
            r"x.jsonl, line 2 is not valid JSON .*18",
        ),
        ("x.jsonl", GOOD + "\n[1]\n", "line 3 holds a list, not a JSON object"),
        (
            "x.jsonl",
            GOOD + '{"sentense": "a", "label": 0}',
            r"line 2: No field 'sentence' \(did yo",
        ),
        ("x.jsonl", GOOD + '{"sentence": "a", "label": 2}', "line 2: Unknown label '2'.*'0', '1'"),
        ("x.jsonl", GOOD + '{"sentence": null, "label": 1}', "line 2: Field 'sentence' is null"),
        ("x.jsonl", GOOD + '{"sentence": ["a"], "label": 1}', "'sentence' is a list"),
        ("x.jsonl", GOOD + '{"sentence": "\\ud800", "label": 1}', "half a character"),
        ("x.jsonl", GOOD + "[" * 100000, "line 2 is not valid JSON"),
        ("x.jsonl", "\n", "x.jsonl holds no records"),
        ("x.jsonl", "", "x.jsonl holds no records"),
        ("x.tsv", "sentence\tlabel\n", "x.tsv holds no records"),
        (
            "x.tsv",
            "sentence\tlabel\na\t0\nb\n",
            r"line 3: 1 columns where there should be 2 \(sent",
        ),
        ("x.tsv", "sentence\tlabel\na\tb\t0\n", "line 2: 3 columns"),
        (
            "x.tsv",
            "sentence\tsentence\na\t0\n",
            r"line 1: the header must name every column.*give columns\.",
        ),
        ("x.csv", 'sentence,label\n"a\n,0\n', "line 2: a quote is opened and never closed"),
        ("x.csv", 'sentence,label\n"a"b"c",0\n', "line 2: not valid CSV"),
        ("x.txt", "a", "must end in one of .jsonl, .tsv, .csv"),
    ],
)
def test_bad_files_are_reported_with_their_line(tmp_path, name, text, message):
    path = write(tmp_path / name, text)
    with pytest.raises(ValueError, match=message):
        file_task(train=path, **SENTIMENT).split("train")


def test_empty_inputs_are_reported(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [{"sentence": " ", "label": 1}])
    with pytest.raises(ValueError, match="line 1: The inputs are empty"):
        file_task(train=path, **(SENTIMENT | {"input_template": "{sentence}"})).split("train")


def test_a_file_that_is_not_utf8_is_reported(tmp_path):
    path = write(tmp_path / "x.tsv", FORMATS["c.tsv"], "latin-1")
    with pytest.raises(ValueError, match=r"line 4: not UTF-8 .*0xe9.*cp1252.*'café'"):
        file_task(train=path, **SENTIMENT).split("train")


def test_a_missing_path_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*absent.tsv"):
        file_task(train=tmp_path / "absent.tsv", **SENTIMENT)
    with pytest.raises(FileNotFoundError, match="no directory"):
        file_task(tmp_path / "absent", **SENTIMENT)
    with pytest.raises(FileNotFoundError, match="holds no train"):
        file_task(tmp_path, **SENTIMENT)
    with pytest.raises(ValueError, match="data directory"):
        file_task(**SENTIMENT)


def test_labels_may_be_written_in_several_ways():
    assert Labels({False: "no", True: "yes"}).word("true") == "yes"
    assert Labels({0: "no", 1: "yes"}).word("1") == "yes"
    assert Labels(["no", "yes"]).word("1") == Labels(["no", "yes"]).word("yes") == "yes"
    assert Labels({"a": "one", "b": "two", "c": "one"}).words == ("one", "two")
    with pytest.raises(ValueError, match="Give a mapping"):
        Labels(["1", "0"])
    with pytest.raises(ValueError, match="list of words or a mapping"):
        Labels("yes")


def test_words_may_stand_inside_a_target(tmp_path):
    options = SENTIMENT | {"target_template": "it is {label}", "metric": ["f1", "accuracy"]}
    task = file_task(train=write(tmp_path / "x.tsv", FORMATS["c.tsv"]), **options)
    assert task.verbalizers == ("it is negative", "it is positive")
    assert examples(task.split("train"))[0]["targets"] == "it is positive"
    assert task.best_metric == "f1"
    assert set(task.score(["it is positive"], ["it is positive"])) == {"f1", "accuracy"}


def test_templates_only_look_names_up():
    assert Template("{{{a}}} {b.c}").render({"a": 1, "b": {"c": True}}) == "{1} true"
    assert Template("{#1 String}").render({"#1 String": "x"}) == "x"
    for text in ("{}", "{a!r}", "{a:>10}", "{a", "a}"):
        with pytest.raises(ValueError, match="Template"):
            Template(text)
    for text in ("{a.__class__}", "{a[0]}", "{__class__}"):
        with pytest.raises(ValueError, match="No field"):
            Template(text).render({"a": "x"})


PAIR = "premise: {premise} hypothesis: {hypothesis}"


@pytest.mark.parametrize(
    ("folder", "options", "split", "counts"),
    [
        ("glue/SST-2", {}, "validation", {"negative": 428, "positive": 444}),
        (
            "superglue/RTE",
            {"input_template": PAIR, "verbalizers": ["entailment", "not_entailment"]},
            "train",
            {"entailment": 1249, "not_entailment": 1241},
        ),
        (
            "superglue/WSC",
            {
                "input_template": "{text} {target.span1_text}",
                "verbalizers": {False: "n", True: "y"},
            },
            "validation",
            {"n": 66, "y": 38},
        ),
        (
            "glue/MRPC",
            {
                "input_template": "{#1 String} / {#2 String}",
                "target_template": "{Quality}",
                "verbalizers": ["different", "same"],
            },
            "validation",
            {"different": 129, "same": 279},
        ),
    ],
)
def test_published_files_are_read_whole(folder, options, split, counts):
    shared = shared_dir()
    if shared is None:
        pytest.skip(NEEDS_SHARED)
    source = file_task(shared / "data" / folder, **(SENTIMENT | options)).split(split)
    assert collections.Counter(e["targets"] for e in examples(source)) == counts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.jsonl", '\ufeff{"text": "a", "label": 0}\n{"text": "\ufeffb", "label": 1}\n'),
        ("x.tsv", "\ufefftext\tlabel\na\t0\n\ufeffb\t1\n"),
        ("x.csv", "\ufefftext,label\na,0\n\ufeffb,1\n"),
    ],
)
def test_a_byte_order_mark_is_one_only_at_the_start(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    records = RecordFile(tmp_path / name)
    scanned = list(records.scan())
    assert [record["text"] for _, _, record in scanned] == ["a", "\ufeffb"]
    with open(tmp_path / name, "rb") as file:
        assert [records.read(file, offset) for offset, _, _ in scanned] == [r for *_, r in scanned]
