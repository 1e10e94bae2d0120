"""A run goes on only with the data and the prompt that it began with; what has changed is named."""

import os

import numpy as np
import pytest
import tiny
from common import slow

from prompt_tuning_jax import ExampleList, save_prompt, train
from prompt_tuning_jax.data.records import digest
from prompt_tuning_jax.data.records.digest import BLOCK, BLOCKS, FilesDigest
from prompt_tuning_jax.training import identity, set_up

FORM = {"input_template": "{text}", "verbalizers": ["yes", "no"], "feature_lengths": tiny.LENGTHS}
SHORT = {"prompt_length": 3, "batch_size": 8, "eval_period": 2, "checkpoint_period": 2}


@pytest.fixture
def go(model_dir, tmp_path):
    """Trains, or goes on, up to a number of steps."""
    files = tiny.save_files(tmp_path / "files")

    def run(steps, **options):
        settings = FORM | SHORT | {"data_dir": files, "model_dir": tmp_path / "run"}
        settings |= {"model": str(model_dir), "quiet": True, "train_steps": steps}
        return train(**settings | options)

    return run


def edit(path):
    """Another label for the first record: as many lines, and bytes, as before."""
    text = path.read_text()
    label = '"label": 0' if '"label": 0' in text.partition("\n")[0] else '"label": 1'
    other = {'"label": 0': '"label": 1', '"label": 1': '"label": 0'}[label]
    path.write_text(text.replace(label, other, 1))


def touch(path):
    os.utime(path, ns=(0, 10**9))


@pytest.mark.parametrize("split", ["train", slow("validation")])
def test_data_edited_in_place_are_another_run(go, tmp_path, split):
    history = go(2).history
    file = tmp_path / "files" / f"{split}.jsonl"
    touch(file)
    assert go(2).history == history
    edit(file)
    role = {"train": "training"}.get(split, split)
    named = rf"the {role} file .*{split}.jsonl has changed since this run began.*model_dir"
    for steps in (2, 4):  # a run that has ended, and one that would go on
        with pytest.raises(ValueError, match=named):
            go(steps)
    edit(file)
    assert go(4).history[: len(history)] == history


def test_a_prompt_to_start_from_that_has_changed_is_named(go, tmp_path, model):
    start = tmp_path / "start"
    values = np.ones((3, model.config.emb_dim), np.float32)
    save_prompt(start, values)
    go(2, prompt_init=str(start))
    save_prompt(tmp_path / "copy", values)
    go(2, prompt_init=str(tmp_path / "copy"))
    save_prompt(start, 2 * values)
    with pytest.raises(ValueError, match=r"the prompt .*start, at which prompt_init starts, has"):
        go(2, prompt_init=str(start))
    with pytest.raises(ValueError, match=r"prompt_init was '.*start', now 'uniform'"):
        go(2, prompt_init="uniform")


def test_other_templates_are_named(go):
    go(2)
    with pytest.raises(ValueError, match=r"input_template was '\{text\}', now 'it: \{text\}'"):
        go(2, input_template="it: {text}")


@pytest.mark.slow
def test_a_state_of_an_earlier_version_goes_on_and_is_then_bound(go, tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(set_up, "run_inputs", lambda *_: {})
        go(2)
    go(4)
    edit(tmp_path / "files" / "validation.jsonl")
    with pytest.raises(ValueError, match="validation file"):
        go(4)


def test_a_state_from_before_there_was_a_setting_had_its_default(go, monkeypatch):
    new = ("TASK_KIND", "MIX_TASKS", "TEACHER_WEIGHT", "LABEL_SMOOTHING")
    with monkeypatch.context() as earlier:
        whole = set_up.run_identity
        earlier.setattr(
            set_up,
            "run_identity",
            lambda *given: {k: x for k, x in whole(*given).items() if k not in new},
        )
        go(2)
    with pytest.raises(ValueError, match=r"label_smoothing was 0\.0, now 0\.1"):
        go(2, label_smoothing=0.1)
    go(2)


def test_examples_in_memory_are_compared_too(go, tmp_path):
    task = tiny.make_task()
    files = {"data_dir": None, "input_template": None, "verbalizers": None}
    go(2, task=task, **files)
    other = [{**row, "targets": "yes"} for row in task.splits["validation"]]
    changed = tiny.make_task(splits={**task.splits, "validation": ExampleList(other)})
    with pytest.raises(ValueError, match="the validation examples have changed"):
        go(2, task=changed, **files)


@pytest.mark.slow
def test_only_the_train_file(go, tmp_path):
    """What has no validation split says so, and takes no patience; a share of train is one."""
    (tmp_path / "files" / "validation.jsonl").unlink()
    with pytest.raises(ValueError, match=r"patience goes by evaluations.*validation_share=0.1"):
        go(2, patience=2)
    with pytest.warns(UserWarning, match="nothing is evaluated.*validation_share=0.1"):
        assert go(2).history == []
    held_out = {"validation_share": 0.2, "patience": 2, "model_dir": tmp_path / "other"}
    first = go(2, **held_out)
    assert [scores["step"] for scores in first.history] == [2]
    assert go(4, **held_out).history[0] == first.history[0]
    with pytest.raises(ValueError, match=r"validation_share was 0.2, now 0.3"):
        go(4, **held_out | {"validation_share": 0.3})


# --- the digest of files


def test_a_file_is_read_whole_only_where_its_time_differs(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    path.write_bytes(bytes(3 * BLOCK * BLOCKS))
    before = FilesDigest([path], "training").facts()
    read = []
    monkeypatch.setattr(digest, "_sha256", lambda p, *_: read.append(p) or before[0]["sha256"])
    again = FilesDigest([path], "training")
    assert again.difference(before) is None
    assert again.facts() == before
    assert read == []
    touch(path)
    assert FilesDigest([path], "training").difference(before) is None
    assert read == [str(path)]


@pytest.mark.parametrize("at", [0, 7 * BLOCK // 2, -1])
@pytest.mark.parametrize("same_time", [False, True])
def test_one_byte_is_noticed(tmp_path, at, same_time):
    path = tmp_path / "x.jsonl"
    content = bytearray(2 * BLOCK * BLOCKS)
    path.write_bytes(content)
    before, then = FilesDigest([path], "training").facts(), path.stat().st_mtime_ns
    content[at] = 1
    path.write_bytes(content)
    os.utime(path, ns=(then, then if same_time else then + 1))
    sampled = at in (0, -1)
    found = FilesDigest([path], "training").difference(before)
    assert bool(found) == (sampled or not same_time)


def test_more_or_fewer_files_are_other_data(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("x")
    before = FilesDigest([tmp_path / "a"], "training").facts()
    for paths in ([], [tmp_path / "a", tmp_path / "b"]):
        assert "were others" in FilesDigest(paths, "training").difference(before)
    assert "were others" in FilesDigest([], "training").difference("a digest of examples")


def test_arrays_and_texts_of_examples_count():
    def of(*examples):
        return identity.ExamplesDigest(ExampleList(examples), "training").facts()

    first = {"inputs": "a", "targets": np.array([1, 2])}
    assert of(first) == of(dict(reversed(first.items())))
    others = [{**first, "targets": np.array([1, 3])}, {**first, "inputs": "a\0"}]
    assert len({of(each) for each in [first, *others]}) == 3
