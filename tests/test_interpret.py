"""The command, from a prompt to a page; and what it refuses, in one line."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tiny

from prompt_tuning_jax import load_model, save_prompt, train
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.commands.interpret import main
from prompt_tuning_jax.interpretation.interpret import find_run, interpret

SHAPE = (3, 16)


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """The model_dir of four steps of tuning."""
    directory = tmp_path_factory.mktemp("run")
    train(
        model=model,
        task=tiny.make_task(),
        model_dir=str(directory),
        feature_lengths=tiny.LENGTHS,
        batch_size=8,
        prompt_length=SHAPE[0],
        train_steps=4,
        eval_period=2,
        quiet=True,
    )
    return directory


@pytest.fixture
def words(model, tmp_path):
    """A prompt file that says "yes soup", and nothing of where it is from."""
    tokens = model.vocabulary.encode("yes soup")
    return save_prompt(tmp_path / "words.npy", np.asarray(model.embeddings)[tokens])


@pytest.fixture
def refusal(capsys):
    def refusal(*arguments):
        with pytest.raises(SystemExit) as stopped:
            command.run(lambda: main([str(argument) for argument in arguments]))
        captured = capsys.readouterr()
        assert stopped.value.code in (1, 2)
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return refusal


# --- what is told


def test_a_prompt_of_words_is_read(words, model):
    found = interpret(words, model, neighbours=1, verbalizers=["yes"])
    assert [position.cosine[0].text for position in found.positions] == ["yes", "soup"]
    assert found.labels.positions == {"yes": [0]}
    (note,) = found.notes
    assert "need the run that made the prompt: name its directory with model_dir" in note
    assert found.drift is found.changes is None
    assert found.prompt["length"] == 2


@pytest.mark.parametrize("name", ["best", "last", "prompts/2", "best/prompt.safetensors"])
def test_a_prompt_in_a_run_finds_its_run(run, model, name):
    found = interpret(run / name, model)
    assert [change.step for change in found.changes] == [0, 2, 4]
    assert [start.label for start in found.drift] == ["yes", "no", None]
    assert found.labels.words == ["yes", "no"]
    assert found.prompt["task"] == "food"
    assert found.changes[1].scores["accuracy"] >= 0
    assert found.changes[0].from_start == 0 < found.changes[1].from_start
    assert found.notes == []


def test_a_prompt_that_only_lies_near_a_run_is_not_of_it(run, tmp_path):
    assert find_run(run / "best") == run
    assert find_run(save_prompt(run / "other", np.ones((3, SHAPE[1]), np.float32))) is None
    for step in ("0", "1"):  # no run's, whatever they are called
        save_prompt(tmp_path / "prompts" / step, np.ones(SHAPE, np.float32))
    assert find_run(tmp_path / "prompts" / "1") is None


def test_the_first_prompt_has_not_drifted(run, model):
    found = interpret(run / "prompts" / "0", model)
    assert all(start.kept and start.distance == 0 for start in found.drift)


def test_a_prompt_elsewhere_is_told_its_run(run, model, tmp_path):
    path = save_prompt(tmp_path / "p", np.ones(SHAPE, np.float32), step=2)
    assert find_run(path) is None
    found = interpret(path, model, model_dir=run)
    assert len(found.drift) == 3
    assert found.notes == ["The run's prompt at step 2 is not this prompt."]


def test_labels_given_take_the_place_of_the_prompts_own(run, model):
    assert interpret(run / "best", model, verbalizers=["soup"]).labels.words == ["soup"]
    assert interpret(run / "best", model, verbalizers=[]).labels is None


# --- the command


def test_the_command_tells_the_terminal(run, model_dir, capsys):
    main([str(run / "best"), "--model", str(model_dir), "--neighbours", "2"])
    shown = capsys.readouterr().out
    for text in ("nearest by cosine, 2", "began as", "Class labels", "yes", "Norms", "Drift"):
        assert text in shown


def test_the_command_writes_a_page(run, model_dir, tmp_path, capsys):
    main([str(run / "best"), "--model", str(model_dir), "--output", str(tmp_path / "meaning")])
    page = tmp_path / "meaning" / "index.html"
    assert capsys.readouterr().out == f"{page}\n"
    assert "food" in page.read_text("utf-8")
    data = json.loads((tmp_path / "meaning" / "interpretation.json").read_text("utf-8"))
    assert data == interpret(run / "best", str(model_dir)).to_json()


@pytest.mark.slow
def test_the_command_reads_a_prompt_of_the_bundled_model(tmp_path):
    """As a user calls it, without TensorFlow."""
    bundled = load_model()
    tokens = bundled.vocabulary.encode("film restaurant hotel")
    values = np.asarray(bundled.embeddings)[tokens] * 2
    save_prompt(tmp_path / "p", values, fingerprint=bundled.fingerprint, verbalizers=["film"])
    arguments = [str(tmp_path / "p"), "--output", str(tmp_path / "out"), "--neighbours", "3"]
    blocked = "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'seqio', 't5x']));"
    program = f"from prompt_tuning_jax.commands.interpret import main; main({arguments!r})"
    done = subprocess.run([sys.executable, "-c", blocked + program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "out" / "interpretation.json").read_text("utf-8"))
    nearest = [position["cosine"][0]["text"] for position in data["positions"]]
    assert nearest == ["film", "restaurant", "hotel"]
    assert data["labels"]["rate"] == pytest.approx(1 / 3)
    assert data["positions"][0]["norm_percentile"] == 100


# --- mistakes


def test_mistakes_end_in_one_line(refusal, words, run, model_dir, tmp_path):
    tiny_model = ("--model", model_dir)
    assert "no prompt at" in refusal(tmp_path / "absent", *tiny_model)
    assert "16 wide, the model 192" in refusal(words)
    assert "at least 1" in refusal(words, *tiny_model, "--neighbours", 0)
    assert "1 to 34" in refusal(words, *tiny_model, "--neighbours", 35)
    assert "--neighbours" in refusal(words, *tiny_model, "--neighbours", "some")
    assert "must be a word, not ''" in refusal(words, *tiny_model, "--verbalizers", "yes", "")
    assert "is not the directory of a run" in refusal(words, *tiny_model, "--model_dir", tmp_path)
    assert "the run that made it" in refusal(words, *tiny_model, "--model_dir", run)
    assert "absent" in refusal(words, "--model", tmp_path / "absent")
    (tmp_path / "file").touch()
    assert "file" in refusal(words, *tiny_model, "--output", tmp_path / "file" / "meaning")


def test_a_prompt_of_another_model_needs_to_be_allowed(refusal, run, vocabulary, tmp_path):
    other = tiny.save_model(tmp_path / "other", vocabulary, num_encoder_layers=2)
    assert "tuned for" in refusal(run / "best", "--model", other)
    assert interpret(run / "best", str(other), allow_prompt_mismatch=True).drift


def test_a_model_without_a_vocabulary_is_told_how_to_get_one(
    refusal, words, vocabulary, tmp_path, capsys
):
    silent = tiny.save_model(tmp_path / "silent")
    assert "cannot turn a prompt into text: name its tokenizer" in refusal(words, "--model", silent)
    (tmp_path / "spiece.model").write_bytes(vocabulary.model_bytes)
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 4}')
    main([str(words), "--model", str(silent), "--vocabulary", str(tmp_path / "spiece.model")])
    assert "soup" in capsys.readouterr().out
