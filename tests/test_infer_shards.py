"""Many files: each is answered as alone, by one host, and once."""

import json
import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from common import slow
from test_hosts import Processes

from prompt_tuning_jax import save_prompt
from prompt_tuning_jax.checkpoints.adapters.adapter import Adapter
from prompt_tuning_jax.checkpoints.adapters.adapter_file import save_adapter
from prompt_tuning_jax.commands.inference import infer as command
from prompt_tuning_jax.commands.inference.infer_shards import RECORD
from prompt_tuning_jax.methods.adapters import choice
from prompt_tuning_jax.methods.adapters.method import Options
from prompt_tuning_jax.params import flatten

TEXTS = {
    "a.txt": ["the soup was good", "bread"],
    "b.txt": ["we had cake and it was very cold"],
    "c.txt": ["the tea was fresh", "the soup was good", "tea"],
    "d.txt": [],
}
SIZES = {"batch_size": 4, "max_input_length": 12}


@pytest.fixture(scope="module")
def prompt_dir(tmp_path_factory, model):
    return tiny.save_ranking_prompt(tmp_path_factory.mktemp("prompts") / "p", model)


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
        given = {"model": str(model_dir), "prompt": str(prompt_dir), **SIZES}
        given |= {"input_file": str(folder), "output": tmp_path / "out"} | options
        command.infer(**given)
        return {file.name: file.read_text() for file in given["output"].iterdir()}

    return run


def alone(infer, folder, tmp_path, **options):
    """What `infer` answers to each file by itself."""
    (tmp_path / "alone").mkdir()
    for name in TEXTS:
        target = tmp_path / "alone" / f"{name[0]}.jsonl"
        command.infer(input_file=folder / name, output=target, **options)
    return {file.name: file.read_text() for file in (tmp_path / "alone").iterdir()}


@pytest.mark.parametrize(
    "more", [slow({}), {"predictions": "generate", "temperature": 1.0, "seed": 3}]
)
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
    assert there == {RECORD, "a.jsonl"}  # what was not whole is gone
    assert infer() == whole


def test_other_inputs_are_refused(infer, folder):
    infer()
    (folder / "a.txt").write_text("the soup was bad!\nbread\n")
    with pytest.raises(ValueError, match=r"another call: the input file \S+a.txt has changed"):
        infer()


def test_files_that_come_later_are_answered_too(infer, folder):
    before = infer()
    (folder / "e.txt").write_text("tea\n")
    after = infer()
    assert after.pop("e.jsonl")
    assert {**after, RECORD: ""} == {**before, RECORD: ""}


def test_files_with_each_other_s_names_are_refused(infer, folder):
    infer()
    (folder / "a.txt").rename(folder / "0.txt")
    (folder / "b.txt").rename(folder / "a.txt")
    with pytest.raises(ValueError, match=r"the input file \S+a.txt has changed"):
        infer()


def test_a_file_of_another_form_is_refused(infer, folder):
    infer()
    (folder / "a.txt").rename(folder / "a.jsonl")
    with pytest.raises(ValueError, match=r"a\.jsonl is not of \S+in/a\.jsonl"):
        infer()


def test_a_file_that_was_not_answered_may_be_mended(infer, folder):
    """A line that is none is named with its file, and the call goes on once it is mended."""
    (folder / "c.txt").write_bytes(b"tea\xe9\n")
    with pytest.raises(ValueError, match=r"Line 1 of \S+c\.txt: "):
        infer()
    (folder / "c.txt").write_text("tea\n")
    assert len(infer()["c.jsonl"].splitlines()) == 1


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"max_input_length": 5}, "max_input_length"),
        ({"verbalizers": ["good", "bad"]}, "the words to choose from"),
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
    with pytest.raises(ValueError, match="the prompt or adapter was another"):
        infer(prompt=str(tmp_path / "p"))


@pytest.mark.parametrize(
    "other", [{"verbalizers": ["good", "bad"]}, {"input_template": "so: {text}"}]
)
def test_what_a_prompt_s_file_says_counts(infer, model, tmp_path, other):
    values = np.ones((2, model.config.emb_dim), np.float32)
    facts = {"fingerprint": model.fingerprint, "verbalizers": ["yes", "no"]}
    infer(prompt=str(save_prompt(tmp_path / "p", values, **facts, input_template="it: {text}")))
    save_prompt(tmp_path / "p", values, **facts | {"input_template": "it: {text}"} | other)
    with pytest.raises(ValueError, match="was another"):
        infer(prompt=str(tmp_path / "p"))


@pytest.mark.slow
def test_another_adapter_is_refused(infer, model, tmp_path):
    leaves = choice.start("lora", jax.random.key(0), flatten(model.params), Options())
    how = {"prompt": None, "adapter": str(tmp_path / "lora"), "verbalizers": ["yes", "no"]}
    for size in (1, 5):
        grown = {name: np.asarray(x) * size for name, x in leaves.items()}
        save_adapter(tmp_path / "lora", Adapter("lora", grown), model.config, "model")
        if size == 1:
            infer(**how)
    with pytest.raises(ValueError, match="the prompt or adapter was another"):
        infer(**how)


@pytest.mark.slow
def test_what_the_model_s_files_say_counts(infer, model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "model")
    rules = tmp_path / "model" / "generation_config.json"
    how = {"model": str(tmp_path / "model"), "predictions": "generate"}
    rules.write_text(json.dumps({"max_length": 3}))
    infer(**how)
    rules.write_text(json.dumps({"max_length": 8, "num_beams": 3}))
    with pytest.raises(
        ValueError, match="what the model's own files say of its answers was another"
    ):
        infer(**how)


def test_rules_of_generation_are_not_asked_where_labels_are_ranked(infer, model_dir, tmp_path):
    """A file may ask for what generation does not do here, and says nothing of labels."""
    shutil.copytree(model_dir, tmp_path / "model")
    rules = tmp_path / "model" / "generation_config.json"
    rules.write_text(json.dumps({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}))
    how = {"model": str(tmp_path / "model")}
    with pytest.raises(ValueError, match="diversity_penalty"):
        infer(**how, predictions="generate", output=tmp_path / "other")
    first = infer(**how)
    rules.write_text("{}")
    assert infer(**how) == first


def test_the_same_call_in_other_words_goes_on(infer, folder, model_dir, tmp_path, monkeypatch):
    first = infer()
    monkeypatch.chdir(tmp_path)
    for more in (
        {"input_file": "in"},
        {"model_dtype": jnp.float32},
        {"verbalizers": ["yes", "no"]},
        {"vocabulary": model_dir / "spiece.model"},
        {"mesh": "model:-1", "batch_size": 1},
    ):
        assert infer(**more) == first, more


@pytest.mark.parametrize("record", ["{}", "[1]", '{"made_with": []}', "{", '{"made_with": {}}'])
def test_a_damaged_record_is_said(infer, tmp_path, record):
    infer()
    (tmp_path / "out" / RECORD).write_text(record)
    with pytest.raises(ValueError, match="Name another folder with"):
        infer()


def test_a_pattern_may_name_folders_of_any_depth(infer, folder):
    (folder / "deep" / "er").mkdir(parents=True)
    for name in ("x.tsv", "deep/y.tsv", "deep/er/z.tsv"):
        (folder / name).write_text("tea\n")
    assert {"x.jsonl", "y.jsonl", "z.jsonl"} < set(infer(input_file=str(folder / "**" / "*.tsv")))


def test_records_of_many_files(infer, folder):
    for file in folder.iterdir():
        file.unlink()
    (folder / "r.jsonl").write_text('{"food": "soup", "when": 1}\n')
    (folder / "s.tsv").write_text("food\twhen\ntea\t2\nbread\t3\n")
    found = infer(input_template="the {food} was good")
    assert [len(found[name].splitlines()) for name in ("r.jsonl", "s.jsonl")] == [1, 2]


def test_it_must_be_said_where_answers_go(infer, folder, tmp_path):
    with pytest.raises(ValueError, match=r"is 4 files: say with .*output which folder"):
        command.infer(input_file=folder)
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", folder / "*.csv"):
        with pytest.raises(FileNotFoundError, match="There are no files in"):
            infer(input_file=str(nothing))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file is a file: name a folder"):
        infer(output=tmp_path / "file")


def test_no_answers_are_written_over_others_or_over_questions(infer, folder, tmp_path):
    (folder / "a.csv").write_text("text\ntea\n")
    with pytest.raises(ValueError, match=r"a\.csv and \S+a\.txt would both be"):
        infer()
    (folder / "a.csv").unlink()
    with pytest.raises(ValueError, match="among the texts"):
        infer(output=folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match=r"a\.jsonl is there, and nothing says what of"):
        infer()
    assert (tmp_path / "out" / "a.jsonl").read_text() == "mine\n"


@pytest.mark.slow
def test_a_process_that_is_done_waits_for_the_others(model_dir, prompt_dir, folder, tmp_path):
    """Longer than the half minute that JAX gives processes to end together."""
    program = """
import sys, time
from prompt_tuning_jax.commands.inference import infer
from prompt_tuning_jax.devices import hosts
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.infer_config import InferConfig

answer_file = infer.answer_file

def slowly(config, *rest):
    time.sleep(45 if config.input_file.name == "b.txt" else 0)
    answer_file(config, *rest)

infer.answer_file = slowly
with hosts.connected():
    for _ in range(2):  # nothing is left the second time
        infer.infer(parse(InferConfig, sys.argv[1:], "", ""))
"""
    line = [sys.executable, "-c", program, "--model", str(model_dir), "--prompt", str(prompt_dir)]
    line += ["--input_file", str(folder), "--output", str(tmp_path / "two"), "--batch_size", "4"]
    with Processes([*line, "--max_input_length", "12"], tmp_path / "logs") as both:
        assert both.wait() == [0, 0], both.text(0) + both.text(1)
    assert len(list((tmp_path / "two").glob("*.jsonl"))) == len(TEXTS)


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
