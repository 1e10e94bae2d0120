"""A task by name, as an object, or from files."""

import pytest
import tiny

from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.settings.task_config import TaskConfig, load_task

FILES = {"input_template": "{text}", "verbalizers": {0: "yes", 1: "no"}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny.save_files(tmp_path_factory.mktemp("files"))


def load(**fields):
    return load_task(TaskConfig(**fields), vocabulary=None)


def rows(task, split):
    return [dict(row) for row in task.split(split).stream(seed=None, epoch=0)]


def test_a_task_object_is_itself():
    task = tiny.make_task()
    assert load(task=task) is task


def test_a_bundled_task_goes_by_its_name():
    name = next(iter(BUNDLED_TASKS))
    assert load(task=name).name == name


def test_a_directory_of_files(files):
    task = load(data_dir=str(files), **FILES)
    assert task.verbalizers == tiny.LABELS
    assert rows(task, "validation") == list(tiny.make_task().splits["validation"])


def test_single_files(files):
    task = load(train_file=str(files / "train.jsonl"), **FILES)
    assert set(task.splits) == {"train"}
    assert rows(task, "train") == list(tiny.make_task().splits["train"])


def test_files_without_a_template_are_told_what_it_may_name(files):
    words = "Files need input_template.*names their fields. These have text, label."
    for where in ({"data_dir": str(files)}, {"test_file": str(files / "train.jsonl")}):
        with pytest.raises(ValueError, match=words):
            load(**where)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Give either task, or files: data_dir"),
        ({"task": "food", "data_dir": "data"}, "Give either"),
        ({"data_dir": "no/such/place"}, "no directory no/such/place"),
        ({"task": "bundled_season", "metric": "f1"}, "metric is for a task of files"),
        ({"task": "bundled_season", "verbalizers": ["a"]}, "verbalizers is for a task of files"),
        ({"task": "no_such_task"}, "no_such_task.*task_module"),
        ({"data_dir": "no/such/place", **FILES}, "no/such/place"),
        ({"train_file": "no/such/file.jsonl", **FILES}, "no/such/file"),
    ],
)
def test_what_cannot_be_is_refused(fields, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        load(**fields)


def test_the_label_that_f1_looks_for_may_be_named(files):
    found = [
        load(train_file=str(files / "train.jsonl"), metric="f1", positive=label, **FILES)
        for label in (None, "no", "yes")
    ]
    scores = [task.score(["yes", "yes", "no"], ["yes", "yes", "yes"])["f1"] for task in found]
    assert scores == [pytest.approx(0), pytest.approx(0), pytest.approx(80)]


def test_a_bundled_task_with_a_typo_lists_those_there_are():
    with pytest.raises(ValueError, match=next(iter(BUNDLED_TASKS))):
        load(task="bundled_sentimet")
