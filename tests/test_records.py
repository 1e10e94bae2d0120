"""Files as spreadsheets, pandas and people save them: read rightly, or refused with the remedy."""

import csv
import io
import tracemalloc
import warnings

import pytest

from prompt_tuning_jax.data.files import file_task
from prompt_tuning_jax.data.records import RecordFile

ROWS = [
    {"text": "caf\u00e9 \u2013 \u201cfine\u201d", "label": "1"},
    {"text": "two\nlines", "label": "0"},
    {"text": 'said "no", twice', "label": "1"},
    {"text": "plain", "label": "0"},
]
FORM = {"input_template": "{text}", "target_template": "{label}"}


def table(rows, delimiter=",", end="\r\n", quoting=csv.QUOTE_MINIMAL, first=""):
    """What a spreadsheet saves."""
    out = io.StringIO()
    writer = csv.DictWriter(
        out, list(rows[0]), delimiter=delimiter, lineterminator=end, quoting=quoting
    )
    writer.writeheader()
    writer.writerows(rows)
    return first + out.getvalue()


def read(path, content, **form):
    """The records of a file of this content, each also read alone."""
    path.write_bytes(content)
    records = RecordFile(path, **form)
    scanned = list(records.scan())
    with records.open() as file:
        assert [records.read(file, offset) for offset, _, _ in scanned] == [r for *_, r in scanned]
    return [dict(record) for *_, record in scanned]


ENCODINGS = ("cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1250", "utf-8", "utf-8-sig")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_encoding_that_is_given_is_read(tmp_path, encoding, end):
    assert (
        read(tmp_path / "x.csv", table(ROWS, end=end).encode(encoding), encoding=encoding) == ROWS
    )


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        (table(ROWS), "cp1252", r"line 2: not UTF-8 .*cp1252.*'café'.*give encoding=cp1252"),
        (table(ROWS), "utf-16", "x.csv is utf-16, not UTF-8: give encoding=utf-16"),
        (table(ROWS), "utf-16-le", "x.csv is utf-16-le"),
        (table(ROWS), "utf-16-be", "x.csv is utf-16-be"),
        ("text,label\r\n\u65e5\u672c\u8a9e\u3067\u3059,1\r\n" * 9, "utf-16", "is utf-16"),
        ("text,label\r\n\u65e5\u672c\u8a9e\u3067\u3059,1\r\n" * 9, "utf-16-le", "utf-16-le"),
        (
            "text,label\n" + "\u043f\u0440\u0438\u0432\u0435\u0442,1\n" * 9,
            "cp1251",
            "such as .*cp1251",
        ),
        ("text,label\n" + "\u65e5\u672c\u8a9e\u3067\u3059,1\n" * 9, "cp932", "such as .*cp932"),
    ],
)
def test_an_encoding_is_recognised_and_the_option_named(tmp_path, text, encoding, named):
    with pytest.raises(ValueError, match=named) as error:
        read(tmp_path / "x.csv", text.encode(encoding))
    assert "latin1" not in str(error.value)


def test_a_text_with_zero_bytes_is_still_utf8(tmp_path):
    rows = [{"text": "a\0b", "label": "1"}, {"text": "c", "label": "0"}]
    assert read(tmp_path / "x.tsv", b"text\tlabel\na\0b\t1\nc\t0\n") == rows


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (
            "text,label\ncaf\u00e9,1\n".encode(),
            "cp1252",
            "is UTF-8, not cp1252: leave out",
        ),
        (b"text,label\na,1\n\x81\x81,0\n", "cp1252", "line 3: not cp1252"),
        (b"text,label\na,1\n", "cp1525", "no encoding; did you mean cp125"),
        (b"text,label\na,1\n", "base64", "no encoding"),
    ],
)
def test_a_wrong_encoding_is_refused(tmp_path, content, encoding, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.csv", content, encoding=encoding)


def test_another_encoding_takes_no_more_memory(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(("text,label\n" + ("word " * 400 + ",1\n") * 3000).encode("utf-16"))
    assert path.stat().st_size > 12_000_000
    tracemalloc.start()
    assert sum(1 for _ in RecordFile(path, encoding="utf-16").scan()) == 3000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 9_000_000  # of a block of 1 MiB, in which a character may take 4 bytes


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("first", ["", "\ufeff"])
def test_the_delimiter_of_a_csv_is_found(tmp_path, delimiter, first):
    assert read(tmp_path / "x.csv", table(ROWS, delimiter, first=first).encode()) == ROWS


@pytest.mark.parametrize("line", ["sep=;\r\n", '"sep=;"\n', "\ufeffSEP=;\n"])
def test_excels_first_line_names_the_delimiter(tmp_path, line):
    path = tmp_path / "x.csv"
    assert read(path, table(ROWS, ";", first=line).encode()) == ROWS
    path.write_text(line + "text;label\na;1\nb;7;8\n")
    with pytest.raises(ValueError, match="line 4: 3 columns"):
        list(RecordFile(path).scan())


def test_records_decide_where_the_header_does_not(tmp_path):
    text = "id;text, cleaned;label\n1;one, two, three;0\n2;four;1\n"
    assert read(tmp_path / "x.csv", text.encode())[0]["text, cleaned"] == "one, two, three"
    both = b"a,b;c\n1,2;3\n"
    with pytest.raises(ValueError, match="divided by ',' or ';'\\? Give delimiter"):
        read(tmp_path / "y.csv", both)
    assert read(tmp_path / "y.csv", both, delimiter=";") == [{"a,b": "1,2", "c": "3"}]
    with pytest.raises(ValueError, match="delimiter must be one character"):
        RecordFile(tmp_path / "y.csv", delimiter=";;")


def test_columns_find_the_delimiter_without_a_header(tmp_path):
    found = read(tmp_path / "x.csv", b"1;good, very\n0;bad\n", columns=["label", "text"])
    assert found == [{"label": "1", "text": "good, very"}, {"label": "0", "text": "bad"}]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("first", ["", "\ufeff"])
def test_tables_as_programs_quote_them(tmp_path, end, quoting, first):
    rows = [*ROWS, {"text": "a\ttab", "label": "1"}, {"text": '"', "label": "0"}]
    for name, delimiter in (("x.tsv", "\t"), ("x.csv", ","), ("x.csv", ";")):
        content = table(rows, delimiter, end, quoting, first).encode()
        assert read(tmp_path / name, content) == rows


def test_a_tsv_as_excel_quotes_it(tmp_path):
    """A cell with a comma, too."""
    content = b'text\tlabel\r\n"good, very"\t1\r\n"""oh"""\t0\r\nplain\t1\r\n'
    texts = [record["text"] for record in read(tmp_path / "x.tsv", content)]
    assert texts == ["good, very", '"oh"', "plain"]


@pytest.mark.parametrize(
    "texts",
    [
        ['"opened', "and never closed"],
        ['a "word" in the middle', "b"],
        ['"yes" he said "no"', 'closed"'],
        ['"all of it"', "b"],
        ['"one', 'two"'],  # either line is whole by itself
        ['"', '""', "''"],
        ['"a, b" and more', '"c, d"'],
    ],
)
def test_lone_quotes_in_a_tsv_are_text(tmp_path, texts):
    content = "text\tlabel\n" + "".join(f"{text}\t1\n" for text in texts)
    assert [r["text"] for r in read(tmp_path / "x.tsv", content.encode())] == texts


BY_CHANCE, LONE, WITHOUT = '"Oh, wonderful"\t1\n', 'a 5" screen\t0\n', "plain\t0\n"


@pytest.mark.parametrize("other", ["dev.tsv", "train-00001-of-00002.tsv"])
@pytest.mark.parametrize(("rows", "text"), [(LONE, '"Oh, wonderful"'), (WITHOUT, "Oh, wonderful")])
def test_quotes_are_the_same_in_all_tables_of_a_task(tmp_path, other, rows, text):
    name = "train.tsv" if other == "dev.tsv" else "train-00000-of-00002.tsv"
    (tmp_path / name).write_text("text\tlabel\n" + BY_CHANCE)
    (tmp_path / other).write_text("text\tlabel\n" + rows)
    source = file_task(tmp_path, **FORM).split("train")
    first, *others = (each["inputs"] for each in source)
    assert first == text
    assert others == [rows.split("\t")[0]] * len(others)


def test_quotes_of_a_csv_file_are_its_own(tmp_path):
    (tmp_path / "train.csv").write_text('text,label\n"Oh, wonderful",1\n')
    (tmp_path / "dev.tsv").write_text("text\tlabel\n" + LONE)
    task = file_task(tmp_path, **FORM)
    assert [next(iter(task.split(name)))["inputs"] for name in ("train", "validation")] == [
        "Oh, wonderful",
        'a 5" screen',
    ]


def test_a_tsv_that_holds_semicolons_is_read(tmp_path):
    assert read(tmp_path / "x.tsv", table(ROWS, ";").encode()) == ROWS


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl"])
@pytest.mark.parametrize("encoding", [None, "mac_roman"])
def test_lines_of_old_macs_are_read(tmp_path, name, encoding):
    lines = {
        "x.csv": ["text,label", "caf\u00e9,1", '"a, b",0'],
        "x.tsv": ["text\tlabel", "caf\u00e9\t1", "a, b\t0"],
        "x.jsonl": ['{"text": "caf\u00e9", "label": "1"}', '{"text": "a, b", "label": "0"}'],
    }[name]
    content = "".join(line + "\r" for line in lines).encode(encoding or "utf-8")
    expected = [{"text": "caf\u00e9", "label": "1"}, {"text": "a, b", "label": "0"}]
    assert read(tmp_path / name, content, encoding=encoding) == expected


def test_a_carriage_return_in_a_bare_cell_is_named(tmp_path):
    with pytest.raises(ValueError, match="line 2: a carriage return in a cell without quotes"):
        read(tmp_path / "x.csv", b"text,label\na\rb,1\n")


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c", "\0"])
@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_only_a_line_feed_ends_a_line(tmp_path, mark, name):
    text, cut = f"one{mark}two", "," if name == "x.csv" else "\t"
    content = f"text{cut}label\n{text}{cut}1\nb{cut}0\n".encode()
    assert [r["text"] for r in read(tmp_path / name, content)] == [text, "b"]


def test_an_index_and_empty_columns_have_no_name(tmp_path):
    """As pandas writes its index, and Excel the columns that were once in use."""
    content = b",text,label,,\n0,a,1,,\n1,b,0,,\n"
    assert read(tmp_path / "x.csv", content) == [
        {"text": "a", "label": "1"},
        {"text": "b", "label": "0"},
    ]
    with pytest.raises(ValueError, match="header must name every column"):
        read(tmp_path / "x.csv", b"text,,label\na,b,1\n")


# --- values that are no text


MISSING = {
    "null.jsonl": '{"text": null, "label": 1}',
    "nan.jsonl": '{"text": NaN, "label": 1}',
    "infinite.jsonl": '{"text": -Infinity, "label": 1}',
    "label.jsonl": '{"text": "a", "label": null}',
    "nan.csv": "text,label\nnan,1",
    "none.csv": "text,label\nNone,1",
    "sql.tsv": "text\tlabel\n\\N\t1",
    "label.csv": "text,label\na,NaN",
}


def missing_task(tmp_path, name, **options):
    good = {"jsonl": '{"text": "b", "label": 0}', "csv": "b,0", "tsv": "b\t0"}
    (tmp_path / name).write_text(f"{MISSING[name]}\n{good[name.partition('.')[2]]}\n")
    return file_task(train=tmp_path / name, **{**FORM, "input_template": "it: {text}", **options})


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("verbalizers", [None, ["no", "yes"]])
def test_what_is_no_text_becomes_no_word(tmp_path, name, verbalizers):
    line = 1 if name.endswith("jsonl") else 2
    field = "label" if name.startswith("label") else "text"
    task = missing_task(tmp_path, name, verbalizers=verbalizers)
    with pytest.raises(ValueError, match=rf"{name}, line {line}: Field '{field}' is .*set missing"):
        task.split("train")
    task = missing_task(tmp_path, name, verbalizers=verbalizers, missing="drop")
    with pytest.warns(UserWarning, match="1 of 2 records lack a value and are dropped"):
        assert [e["inputs"] for e in task.split("train").stream(seed=None, epoch=0)] == ["it: b"]


def test_a_word_may_look_like_a_missing_value(tmp_path):
    (tmp_path / "x.csv").write_text("text,label\nNone,1\nb,NA\n")
    options = {**FORM, "verbalizers": {"1": "yes", "NA": "unknown"}}
    task = file_task(train=tmp_path / "x.csv", missing="text", **options)
    assert [dict(e) for e in task.splits["train"]] == [
        {"inputs": "None", "targets": "yes"},
        {"inputs": "b", "targets": "unknown"},
    ]
    (tmp_path / "x.jsonl").write_text('{"text": "nan", "label": "None"}\n')
    task = file_task(train=tmp_path / "x.jsonl", **FORM)  # JSON has a null of its own
    assert dict(task.splits["train"][0]) == {"inputs": "nan", "targets": "None"}


def test_an_empty_cell_is_empty_text_beside_others_only(tmp_path):
    (tmp_path / "x.csv").write_text("title,body,label\n,b,1\nt,,0\n")
    both = {**FORM, "input_template": "title: {title} body: {body}"}
    task = file_task(train=tmp_path / "x.csv", **both)
    assert [e["inputs"] for e in task.splits["train"]] == ["title:  body: b", "title: t body: "]
    alone = {**FORM, "input_template": "title: {title}"}
    with pytest.raises(ValueError, match=r"line 2: The inputs are empty.*missing=drop"):
        file_task(train=tmp_path / "x.csv", **alone).split("train")
    with pytest.warns(UserWarning, match="1 of 2"):
        assert (
            len(file_task(train=tmp_path / "x.csv", missing="drop", **alone).splits["train"]) == 1
        )


def test_a_null_may_count_as_empty_text(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": null, "b": "x", "label": 1}\n')
    options = {**FORM, "input_template": "{a}|{b}", "missing": "empty"}
    assert file_task(train=tmp_path / "x.jsonl", **options).splits["train"][0]["inputs"] == "|x"
    with pytest.raises(ValueError, match="missing must be one of drop, empty, text"):
        file_task(train=tmp_path / "x.jsonl", **{**options, "missing": "ignore"})


# --- the names of splits


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train.csv", "validation.csv", "test.csv"], 3),
        (["training.csv", "valid.csv", "testing.csv"], 3),
        (["TRAIN.CSV", "Dev.Csv", "Test.csv"], 3),
        (["train.csv", "eval.csv"], 2),
        (["train.csv", "validation_matched.csv"], 2),
        (["sst2-train.csv", "sst2-val.csv"], 2),
        (["my_data.train.csv", "my_data.dev.csv"], 2),
        (["train-00000-of-00001.csv", "validation-00000-of-00001.csv"], 2),
        (["data/train.csv", "data/validation-00000-of-00001-ab12cd.csv"], 2),
    ],
)
def test_splits_are_found_by_the_names_people_give(tmp_path, files, splits):
    (tmp_path / "data").mkdir()
    for file in files:
        (tmp_path / file).write_text(f"text,label\n{file},1\n")
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        task = file_task(tmp_path, **FORM)
    assert list(task.splits) == ["train", "validation", "test"][:splits]
    read_from = [task.splits[split][0]["inputs"] for split in task.splits]
    assert read_from == files
    told = [str(each.message) for each in shown]
    assert len(told) == ("sst2" in files[0] or "my_data" in files[0] or "matched" in files[1])


def test_shards_are_read_in_order_and_whole(tmp_path):
    for i in (2, 0, 1):
        (tmp_path / f"train-0000{i}-of-00003.jsonl").write_text(
            f'{{"text": "{i}a", "label": 1}}\n{{"text": "{i}b", "label": 1}}\n'
        )
    source = file_task(tmp_path, **FORM).split("train")
    assert [e["inputs"] for e in source] == ["0a", "0b", "1a", "1b", "2a", "2b"]
    assert [r["text"] for r in source.records()] == ["0a", "0b", "1a", "1b", "2a", "2b"]
    (tmp_path / "train-00001-of-00003.jsonl").unlink()
    with pytest.raises(ValueError, match="2 of the 3 parts of 'train': part 00001 is missing"):
        file_task(tmp_path, **FORM)


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001-aaaa", "train-00000-of-00001-bbbb"),
        ("train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"),
        ("train-00000-of-00002", "train-00001-of-00003"),
        ("train", "train-00000-of-00001"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(tmp_path, names):
    for name in names:
        (tmp_path / f"{name}.csv").write_text("text,label\na,1\n")
    with pytest.raises(ValueError, match=f"holds {names[0]}.* and .*: which of them are one whole"):
        file_task(tmp_path, **FORM)


@pytest.mark.parametrize("numbers", [(0, 1, 2), (2,), ()])
def test_shards_are_as_many_as_they_say(tmp_path, numbers):
    for number in numbers:
        (tmp_path / f"train-{number:05d}-of-00002.csv").write_text("text,label\na,1\n")
    (tmp_path / "dev.csv").write_text("text,label\na,1\n")
    if not numbers:
        (tmp_path / "train-00000-of-00000.csv").write_text("text,label\na,1\n")
    words = "part 0000[01] is missing|its [02] parts are numbered from 00000"
    with pytest.raises(ValueError, match=words):
        file_task(tmp_path, **FORM)


def test_two_files_for_a_split_and_unused_files_are_named(tmp_path):
    for name in ("train.csv", "notes.txt", "train_dev.csv", "extra.csv"):
        (tmp_path / name).write_text("text,label\na,1\n")
    with pytest.warns(UserWarning, match=r"not used: extra.csv, notes.txt, train_dev.csv$"):
        assert list(file_task(tmp_path, **FORM).splits) == ["train"]
    for name in ("validation_matched.csv", "validation_mismatched.csv"):
        (tmp_path / name).write_text("text,label\na,1\n")
    with pytest.raises(ValueError, match=r"validation_matched.csv and validation_mismatched.csv"):
        file_task(tmp_path, **FORM)


def test_what_a_directory_without_splits_holds_is_named(tmp_path):
    (tmp_path / "train.parquet").write_text("")
    with pytest.raises(FileNotFoundError, match=r"ending in .*it holds train.parquet"):
        file_task(tmp_path, **FORM)
