"""A validation split held out of a train file: fixed, stratified, and apart from what trains."""

import collections
import json
import random

import pytest

from prompt_tuning_jax.data.files import file_task

FORM = {"input_template": "{text}", "target_template": "{label}"}
WORDS = ["no", "yes", "maybe"]


@pytest.fixture
def train_file(tmp_path):
    """700 examples of the first label, 200 of the second, 100 of the third, in a random order."""
    labels = [0] * 700 + [1] * 200 + [2] * 100
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    random.Random(0).shuffle(rows)
    return write(tmp_path / "train.jsonl", rows)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sides(path, share, **options):
    task = file_task(train=path, validation_share=share, **{**FORM, **options})
    return [list(task.split(name)) for name in ("train", "validation")]


@pytest.mark.parametrize(("share", "counts"), [(0.1, (70, 20, 10)), (0.25, (175, 50, 25))])
def test_every_label_has_its_share(train_file, share, counts):
    train, validation = sides(train_file, share, verbalizers=WORDS)
    found = collections.Counter(example["targets"] for example in validation)
    assert tuple(found[word] for word in WORDS) == counts
    assert len(train) == 1000 - sum(counts)
    together = [example["inputs"] for example in train + validation]
    assert len(set(together)) == 1000


def test_without_labels_the_share_is_of_all(train_file):
    train, validation = sides(train_file, 0.1, input_template="{text} {label}")
    assert (len(train), len(validation)) == (900, 100)


def test_the_split_is_of_the_texts_and_not_of_their_order(train_file, tmp_path):
    """Pinned too: a run that goes on with another release goes on with the same split."""
    validation = sides(train_file, 0.1, verbalizers=WORDS)[1]
    assert [example["inputs"] for example in validation][:4] == PINNED
    rows = sorted(train_file.read_text().splitlines())
    (tmp_path / "sorted.jsonl").write_text("\n".join(rows))
    again = sides(tmp_path / "sorted.jsonl", 0.1, verbalizers=WORDS)[1]
    assert {example["inputs"] for example in again} == {e["inputs"] for e in validation}


PINNED = ["text 507", "text 124", "text 392", "text 6"]


def test_identical_inputs_are_on_one_side(tmp_path):
    rows = [{"text": f"text {i % 50}", "label": i % 2} for i in range(400)]
    train, validation = sides(write(tmp_path / "x.jsonl", rows), 0.3, verbalizers=WORDS[:2])
    assert not {e["inputs"] for e in train} & {e["inputs"] for e in validation}
    assert len(validation) == 0.3 * 400


def test_few_examples_leave_one_for_validation(tmp_path):
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(4)]
    path = write(tmp_path / "x.jsonl", rows)
    assert list(map(len, sides(path, 0.1, verbalizers=WORDS[:2]))) == [3, 1]
    write(path, rows[:1])
    with pytest.raises(ValueError, match="1 different inputs are too few to hold"):
        sides(path, 0.1, verbalizers=WORDS[:2])


def test_records_are_those_of_the_side(tmp_path):
    rows = [{"text": f"text {i}", "label": i % 2, "id": i} for i in range(20)]
    task = file_task(train=write(tmp_path / "x.jsonl", rows), validation_share=0.2, **FORM)
    for split in ("train", "validation"):
        source = task.split(split)
        assert [record["text"] for record in source.records()] == [e["inputs"] for e in source]
        assert source.files == [tmp_path / "x.jsonl"]


@pytest.mark.parametrize(
    ("files", "share", "message"),
    [
        (["train"], 0, "validation_share must be above 0 and below 1"),
        (["train"], 1.0, "validation_share must be above 0 and below 1"),
        (["train", "dev"], 0.1, "There is a validation file, .*dev.jsonl: leave out validation_sh"),
        (["test"], 0.1, "taken from a train file"),
    ],
)
def test_a_share_that_cannot_be_meant_is_refused(tmp_path, files, share, message):
    for name in files:
        write(tmp_path / f"{name}.jsonl", [{"text": "a", "label": 0}])
    with pytest.raises(ValueError, match=message):
        file_task(tmp_path, validation_share=share, **FORM)
