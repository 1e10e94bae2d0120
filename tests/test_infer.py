"""Predictions for a file or for standard input: one JSON line each, in order."""

import io
import json
import sys

import numpy as np
import pytest

from prompt_tuning_jax import load_prompt, save_prompt
from prompt_tuning_jax.commands import infer as command

TEXTS = ["the soup was good", "we had cake and it was very cold", "the tea was fresh", "bread"]
SIZES = {"batch_size": 4, "max_input_length": 12}


@pytest.fixture(scope="module")
def prompt_dir(tmp_path_factory, model):
    values = np.random.default_rng(0).normal(size=(5, model.config.emb_dim)).astype(np.float32)
    facts = {"fingerprint": model.fingerprint, "verbalizers": ["yes", "no"]}
    return save_prompt(tmp_path_factory.mktemp("prompts") / "p", values, **facts)


@pytest.fixture
def infer(model_dir, tmp_path):
    """Runs on some lines and returns the JSON objects written."""

    def run(lines, **options):
        source, target = tmp_path / "in", tmp_path / "out"
        source.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        files = {"input_file": str(source), "output": str(target)}
        command.infer(model=str(model_dir), **(files | SIZES | options))
        return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]

    return run


def expected(model, prompt_dir):
    from prompt_tuning_jax import load_prompt

    return model.classify(TEXTS, ["yes", "no"], load_prompt(prompt_dir), **SIZES)


def test_lines_are_ranked_in_order(infer, model, prompt_dir):
    labels, scores = expected(model, prompt_dir)
    answers = infer(TEXTS, prompt=str(prompt_dir))
    assert [answer["prediction"] for answer in answers] == labels
    for answer, row in zip(answers, scores, strict=True):
        assert list(answer["scores"]) == ["yes", "no"]
        np.testing.assert_allclose(list(answer["scores"].values()), row, atol=1e-4)
        assert answer["score"] == max(answer["scores"].values())


def test_records_fill_a_template(infer, model, prompt_dir):
    records = [json.dumps({"id": i, "food": text}) for i, text in enumerate(TEXTS)]
    plain = infer(TEXTS, prompt=str(prompt_dir))
    assert infer(records, prompt=str(prompt_dir), input_template="{food}") == plain
    other = infer(records, prompt=str(prompt_dir), input_template="the {food} was bad")
    assert other != plain


def test_standard_input_and_output(model_dir, prompt_dir, infer, monkeypatch, capsys):
    plain = infer(TEXTS, prompt=str(prompt_dir))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\r\n".join(TEXTS)))
    command.main(
        [
            *("--model", str(model_dir), "--prompt", str(prompt_dir)),
            *("--batch_size", "4", "--max_input_length", "12"),
        ]
    )
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == plain


def test_a_long_file_is_answered_in_pieces(infer, prompt_dir, monkeypatch):
    plain = infer(TEXTS * 3, prompt=str(prompt_dir))
    monkeypatch.setattr(command, "CHUNK", 5)
    assert infer(TEXTS * 3, prompt=str(prompt_dir)) == plain
    assert plain[:4] == plain[4:8] == plain[8:]


def test_verbalizers_may_be_given(infer, prompt_dir):
    answers = infer(TEXTS, prompt=str(prompt_dir), verbalizers=["good", "bad"])
    assert {answer["prediction"] for answer in answers} <= {"good", "bad"}


def test_text_is_generated_where_there_are_no_labels(infer, model):
    answers = infer(TEXTS, max_length=4, beams=2)
    texts, scores = model.generate(TEXTS, max_length=4, beams=2, **SIZES)
    assert [answer["prediction"] for answer in answers] == texts
    np.testing.assert_allclose([answer["score"] for answer in answers], scores, atol=1e-3)


def test_text_may_be_generated_in_spite_of_labels(infer, prompt_dir):
    answers = infer(TEXTS, prompt=str(prompt_dir), predictions="generate", max_length=4)
    assert all(set(answer) == {"prediction", "score"} for answer in answers)


def test_the_words_of_a_mapping_are_the_labels(infer, prompt_dir):
    mapping = infer(TEXTS, prompt=str(prompt_dir), verbalizers={"0": "good", "1": "bad"})
    assert mapping == infer(TEXTS, prompt=str(prompt_dir), verbalizers=["good", "bad"])
    with pytest.raises(ValueError, match="must be a mapping or a list"):
        infer(TEXTS, prompt=str(prompt_dir), verbalizers="good")


def test_what_a_line_samples_depends_on_its_number_alone(infer, monkeypatch):
    options = {"max_length": 6, "temperature": 1.0}
    plain = infer(TEXTS[:1] * 6, **options)
    assert len({answer["prediction"] for answer in plain}) > 3
    monkeypatch.setattr(command, "CHUNK", 4)
    assert infer(TEXTS[:1] * 6, **options) == plain


def test_empty_lines_between_records_and_a_byte_order_mark_are_passed_over(infer):
    options = {"verbalizers": ["yes", "no"], "input_template": "{text}"}
    lines = ["\ufeff" + json.dumps({"text": TEXTS[0]}), "", json.dumps({"text": TEXTS[1]})]
    assert infer(lines, **options) == infer(TEXTS[:2], verbalizers=["yes", "no"])


def test_two_devices_answer_as_one(infer, prompt_dir):
    one = infer(TEXTS, prompt=str(prompt_dir), mesh="data:1,model:2")
    two = infer(TEXTS, prompt=str(prompt_dir), mesh="data:2")
    for ours, theirs in zip(one, two, strict=True):
        assert ours["prediction"] == theirs["prediction"]
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=2e-4)


def test_a_text_prompt_stands_around_every_line(infer):
    options = {"verbalizers": ["yes", "no"]}
    wrapped = infer([f"we had {text} and" for text in TEXTS], **options)
    assert infer(TEXTS, text_prompt="we had {input} and", **options) == wrapped


def test_an_empty_line_has_an_answer_and_an_empty_file_none(infer):
    assert len(infer([TEXTS[0], "", TEXTS[1]], verbalizers=["yes", "no"])) == 3
    assert infer([], verbalizers=["yes", "no"]) == []


def test_letters_stay_letters(infer):
    answers = infer(["süß"], verbalizers=["good ☺", "bad"])
    assert set(answers[0]["scores"]) == {"good ☺", "bad"}


def test_labels_that_are_the_same_tokens_are_refused(infer):
    with pytest.raises(ValueError, match="'☺' and '☹' are the same tokens"):
        infer(["soup"], verbalizers=["☺", "☹"])


def test_answers_that_a_prompt_file_has_by_class_are_ranked(infer, prompt_dir, tmp_path):
    prompt = load_prompt(prompt_dir)
    save_prompt(tmp_path / "by_class", prompt, verbalizers={"0": "no", "1": "yes"})
    listed, by_class = (infer(["soup"], prompt=str(p)) for p in (prompt_dir, tmp_path / "by_class"))
    assert listed[0]["prediction"] == by_class[0]["prediction"]
    assert set(by_class[0]["scores"]) == {"no", "yes"}


def test_long_inputs_are_not_cut_unseen(infer, prompt_dir):
    with pytest.warns(UserWarning, match="inputs longer than 8 tokens are cut"):
        infer(["soup " * 20], prompt=str(prompt_dir), max_input_length=8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_template": "text: text"}, "names no field"),
        ({"text_prompt": "caf\udce9 {input}"}, "text_prompt: half a character, or not UTF-8"),
        ({"prompts": [1]}, "named by its path"),
    ],
)
def test_settings_that_cannot_be_meant_are_named(infer, options, words):
    with pytest.raises(ValueError, match=words):
        infer(["soup"], **options)


def test_bytes_that_are_no_text_are_named_by_their_line():
    lines = ["soup\n", "caf\udce9\n"]  # as standard input has them in a C locale
    with pytest.raises(ValueError, match="Line 2 of the input: text: half a character, or not"):
        list(command.read_inputs(lines, None))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"text": "a"}', "{text: a}"], "Line 2.*JSON"),
        (['{"text": "a"}', "[1]"], "Line 2.*JSON object"),
        (['{"text": "a"}', '{"text": "\\ud83d"}'], "Line 2.*half a character"),
        (['{"txt": "a"}'], "Line 1.*text"),
    ],
)
def test_a_malformed_line_is_named(infer, lines, words):
    with pytest.raises(ValueError, match=words):
        infer(lines, input_template="{text}", verbalizers=["yes", "no"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"predictions": "guess"}, "predictions must be one of rank, generate"),
        ({"predictions": "rank"}, "predictions=rank needs verbalizers"),
        ({"text_prompt": "good?"}, "{input}"),
        ({"input_template": "{text"}, "Template"),
        ({"input_file": "no/such/file"}, "no/such/file"),
        ({"prompt": "no/such/prompt"}, "no/such/prompt"),
    ],
)
def test_mistakes_are_named(infer, options, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        infer(TEXTS, **options)


def test_a_file_that_is_not_utf8_is_named(infer, tmp_path):
    (tmp_path / "latin1").write_bytes("süß".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin1.*UTF-8"):
        infer([], input_file=str(tmp_path / "latin1"), verbalizers=["yes", "no"])


def test_a_mistake_leaves_no_output(infer, tmp_path):
    (tmp_path / "out").write_text("what was there")
    with pytest.raises(ValueError, match="Line 2"):
        infer(['{"text": "a"}', "b"], input_template="{text}", verbalizers=["yes", "no"])
    assert (tmp_path / "out").read_text() == "what was there"
