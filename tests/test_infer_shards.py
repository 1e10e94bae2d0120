"""Many files: each is answered as alone, by one host, and once."""

import json
import re
import sys

import numpy as np
import pytest
from test_hosts import Processes

from prompt_tuning_jax import save_prompt
from prompt_tuning_jax.commands.inference import infer as command
from prompt_tuning_jax.commands.inference.infer_shards import RECORD

TEXTS = {
    "a.txt": ["the soup was good", "bread"],
    "b.txt": ["we had cake and it was very cold"],
    "c.txt": ["the tea was fresh", "the soup was good", "tea"],
    "d.txt": [],
}
SIZES = {"batch_size": 4, "max_input_length": 12}


@pytest.fixture(scope="module")
def prompt_dir(tmp_path_factory, model):
    values = np.random.default_rng(0).normal(size=(5, model.config.emb_dim)).astype(np.float32)
    facts = {"fingerprint": model.fingerprint, "verbalizers": ["yes", "no"]}
    return save_prompt(tmp_path_factory.mktemp("prompts") / "p", values, **facts)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, lines in TEXTS.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    (folder / ".hidden").write_text("nothing\n")
    return folder


@pytest.fixture
def infer(model_dir, prompt_dir, folder, tmp_path):
    """Answers the folder, or what is said instead; gives the files' texts by their names."""

    def run(**options):
        given = {"prompt": str(prompt_dir), "input_file": str(folder), "output": tmp_path / "out"}
        given |= SIZES | options
        command.infer(model=str(model_dir), **given)
        return {file.name: file.read_text() for file in given["output"].iterdir()}

    return run


def alone(infer, folder, tmp_path, **options):
    """What `infer` answers to each file by itself."""
    (tmp_path / "alone").mkdir()
    for name in TEXTS:
        target = tmp_path / "alone" / f"{name[0]}.jsonl"
        command.infer(input_file=folder / name, output=target, **options)
    return {file.name: file.read_text() for file in (tmp_path / "alone").iterdir()}


@pytest.mark.parametrize("more", [{}, {"predictions": "generate", "temperature": 1.0, "seed": 3}])
def test_each_file_is_answered_as_alone(infer, model_dir, prompt_dir, folder, tmp_path, more):
    found = infer(**more)
    assert json.loads(found.pop(RECORD))["made_with"]["seed"] == more.get("seed", 0)
    asked = {"model": str(model_dir), "prompt": str(prompt_dir), **SIZES, **more}
    assert found == alone(infer, folder, tmp_path, **asked)
    assert [len(found[f"{name[0]}.jsonl"].splitlines()) for name in TEXTS] == [2, 1, 3, 0]


def test_a_pattern_names_some(infer, folder):
    found = infer(input_file=str(folder / "[ab].txt"))
    assert sorted(found) == ["a.jsonl", "b.jsonl", RECORD]


def test_what_is_there_is_not_answered_again(infer, tmp_path, monkeypatch, capsys):
    first = infer()
    (tmp_path / "out" / "b.jsonl").unlink()
    asked, answer_file = [], command.answer_file
    monkeypatch.setattr(
        command,
        "answer_file",
        lambda config, *rest: (asked.append(config.input_file.name), answer_file(config, *rest)),
    )
    assert infer(batch_size=2) == first  # of other settings only those that change an answer count
    assert asked == ["b.txt"]
    assert "3 of 4 files are answered already." in capsys.readouterr().err


def test_a_call_that_stops_goes_on(infer, tmp_path, monkeypatch):
    whole = infer(output=tmp_path / "whole")
    answer_file, left = command.answer_file, [2]

    def fail_in_time(*given):
        answer_file(*given)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "answer_file", fail_in_time)
    with pytest.raises(KeyboardInterrupt):
        infer()
    there = {file.name for file in (tmp_path / "out").iterdir()}
    assert there == {RECORD, "b.jsonl"} or there == {
        RECORD,
        "c.jsonl",
    }  # what was not whole is gone
    assert infer() == whole


def test_other_inputs_are_refused(infer, folder):
    infer()
    (folder / "a.txt").write_text("the soup was bad!\nbread\n")
    with pytest.raises(ValueError, match=r"another call: the input file \S+a.txt has changed"):
        infer()


def test_other_files_are_refused(infer, folder):
    infer()
    (folder / "e.txt").write_text("tea\n")
    with pytest.raises(ValueError, match="the input data were others"):
        infer()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"max_input_length": 5}, "max_input_length"),
        ({"verbalizers": ["good", "bad"]}, "verbalizers"),
        ({"text_prompt": "so: "}, "text_prompt"),
        ({"model_dtype": "bfloat16"}, "model_dtype"),
    ],
)
def test_other_settings_are_refused(infer, more, named):
    infer()
    with pytest.raises(ValueError, match=f"{named} was another"):
        infer(**more)


def test_another_prompt_in_the_same_place_is_refused(infer, model, tmp_path):
    values = np.ones((2, model.config.emb_dim), np.float32)
    facts = {"fingerprint": model.fingerprint, "verbalizers": ["yes", "no"]}
    infer(prompt=str(save_prompt(tmp_path / "p", values, **facts)))
    save_prompt(tmp_path / "p", values * 2, **facts)
    with pytest.raises(ValueError, match="prompts was another"):
        infer(prompt=str(tmp_path / "p"))


def test_it_must_be_said_where_answers_go(infer, folder, tmp_path):
    with pytest.raises(ValueError, match=r"is 4 files: say with .*output which folder"):
        command.infer(input_file=folder)
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", folder / "*.csv"):
        with pytest.raises(FileNotFoundError, match="There are no files in"):
            infer(input_file=str(nothing))


def test_no_answers_are_written_over_others_or_over_questions(infer, folder, tmp_path):
    (folder / "a.csv").write_text("text\ntea\n")
    with pytest.raises(ValueError, match=r"a\.csv and \S+a\.txt would both be"):
        infer()
    (folder / "a.csv").unlink()
    (folder / "b.jsonl").write_text("tea\n")
    (folder / "b.txt").unlink()
    with pytest.raises(ValueError, match="choose another folder"):
        infer(output=folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match=r"a\.jsonl is there, and nothing says what of"):
        infer()
    assert (tmp_path / "out" / "a.jsonl").read_text() == "mine\n"


@pytest.mark.slow
def test_two_processes_answer_each_file_once(infer, model_dir, prompt_dir, folder, tmp_path):
    expected = infer()
    del expected[RECORD]
    line = [sys.executable, "-m", "prompt_tuning_jax", "infer", "--model", str(model_dir)]
    line += ["--prompt", str(prompt_dir), "--input_file", str(folder), "--batch_size", "4"]
    line += ["--max_input_length", "12", "--output", str(tmp_path / "two")]
    with Processes(line, tmp_path / "logs") as both:
        assert both.wait() == [0, 0], both.text(0) + both.text(1)
        answered = [re.findall(r"two/(\w)\.jsonl: \d of 2", both.text(i)) for i in range(2)]
    assert sorted(map(len, answered)) == [2, 2]
    assert sorted([*answered[0], *answered[1]]) == ["a", "b", "c", "d"]
    found = {file.name: file.read_text() for file in (tmp_path / "two").iterdir()}
    assert json.loads(found.pop(RECORD))
    for name, lines in expected.items():
        for ours, theirs in zip(lines.splitlines(), found[name].splitlines(), strict=True):
            ours, theirs = json.loads(ours), json.loads(theirs)
            assert ours["prediction"] == theirs["prediction"]
            assert ours["scores"] == pytest.approx(theirs["scores"], abs=2e-4)
