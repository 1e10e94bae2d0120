"""Predictions for a file or for standard input: one JSON line each, in order."""

import io
import json
import sys

import numpy as np
import pytest
import tiny

from prompt_tuning_jax import load_prompt, save_prompt, train
from prompt_tuning_jax.commands.inference import infer as command

TEXTS = ["the soup was good", "we had cake and it was very cold", "the tea was fresh", "bread"]
SIZES = {"batch_size": 4, "max_input_length": 12}


@pytest.fixture(scope="module")
def prompt_dir(tmp_path_factory, model):
    return tiny.save_ranking_prompt(tmp_path_factory.mktemp("prompts") / "p", model)


@pytest.fixture
def infer(model_dir, tmp_path):
    """Runs on some lines and returns the JSON objects written."""

    def run(lines, **options):
        source, target = tmp_path / "in", tmp_path / "out"
        source.write_bytes("".join(line + "\n" for line in lines).encode())
        files = {"input_file": str(source), "output": str(target)}
        command.infer(model=str(model_dir), **(files | SIZES | options))
        # As a program reads them that takes every sign of a line's end for one.
        return [json.loads(line) for line in target.read_bytes().decode().splitlines()]

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


def test_a_model_that_is_there_answers(infer, model, prompt_dir, tmp_path):
    found = infer(TEXTS, prompt=str(prompt_dir))
    files = {"input_file": tmp_path / "in", "output": tmp_path / "again"}
    command.infer(model=model, prompt=str(prompt_dir), **files, **SIZES)
    assert list(map(json.loads, (tmp_path / "again").read_text().splitlines())) == found


def test_records_fill_a_template(infer, model, prompt_dir):
    records = [json.dumps({"id": i, "food": text}) for i, text in enumerate(TEXTS)]
    plain = infer(TEXTS, prompt=str(prompt_dir))
    assert infer(records, prompt=str(prompt_dir), input_template="{food}") == plain
    other = infer(records, prompt=str(prompt_dir), input_template="the {food} was bad")
    assert other != plain


def test_standard_input_and_output(model_dir, prompt_dir, infer, monkeypatch, capsys):
    plain = infer(TEXTS, prompt=str(prompt_dir))
    standard_input(monkeypatch, "\r\n".join(TEXTS).encode())
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def standard_input(monkeypatch, content: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "ascii"))


def test_bytes_that_are_no_text_are_named_by_their_line(infer, monkeypatch):
    standard_input(monkeypatch, b"soup\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"Line 2 of the input: not UTF-8 .*0xe9.*set encoding"):
        infer([], input_file=None, verbalizers=["yes", "no"])


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_an_encoding_that_is_given_is_read(infer, tmp_path, monkeypatch, encoding):
    options = {"verbalizers": ["yes", "no"], "max_input_length": 64}
    expected = infer(["süß", "soup"], **options)
    content = "süß\nsoup".encode(encoding)
    (tmp_path / "other").write_bytes(content)
    standard_input(monkeypatch, content)
    for file in (str(tmp_path / "other"), None):
        assert infer([], input_file=file, encoding=encoding, **options) == expected


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


# --- one answer for each line

MARKS = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r", "\0", "\ufeff", "\t"]


def test_a_line_has_one_answer_whatever_it_holds(infer):
    lines = ["", *(f"soup{mark}bread" for mark in MARKS), *MARKS, "", "last"]
    assert len(infer(lines, verbalizers=["yes", "no"])) == len(lines)


@pytest.mark.parametrize(
    "content", [b"", b"a", b"a\n", b"a\r\nb\rc", b"\n\n", b"\xef\xbb\xbfa\n\nb"]
)
def test_there_are_as_many_answers_as_lines(infer, tmp_path, monkeypatch, content):
    (tmp_path / "lines.txt").write_bytes(content)
    standard_input(monkeypatch, content)
    count = content.count(b"\n") + (not content.endswith(b"\n") and content != b"")
    for file in (str(tmp_path / "lines.txt"), None):
        assert len(infer([], input_file=file, verbalizers=["yes", "no"])) == count


@pytest.mark.parametrize("mark", [*MARKS, "\n"])
def test_an_answer_is_one_line_whatever_it_holds(infer, mark):
    labels = [f"yes{mark}indeed", "no"]
    (answer,) = infer(["soup"], verbalizers=labels)
    assert list(answer["scores"]) == labels


# --- the template that a prompt was trained with


@pytest.fixture
def trained(prompt_dir, tmp_path):
    """A prompt that records the template "food: {food}", and what else training knows."""
    facts = {"input_template": "food: {food}", "feature_lengths": {"inputs": 12, "targets": 3}}
    return str(save_prompt(tmp_path / "trained", load_prompt(prompt_dir), **facts))


def of_table(delimiter):
    return "".join(f"{i}{delimiter}{text}\n" for i, text in [("id", "food"), *enumerate(TEXTS)])


FILES = {
    "in.jsonl": "".join(json.dumps({"id": i, "food": t}) + "\n" for i, t in enumerate(TEXTS)),
    "in.csv": of_table(","),
    "semicolons.csv": "sep=;\n" + of_table(";"),
    "in.tsv": of_table("\t"),
    None: "".join(json.dumps({"food": text}) + "\n" for text in TEXTS),
}


@pytest.mark.parametrize("name", FILES)
def test_records_are_put_into_the_prompts_template(infer, trained, tmp_path, monkeypatch, name):
    expected = infer([f"food: {text}" for text in TEXTS], prompt=trained, template="none")
    standard_input(monkeypatch, FILES[name].encode())
    if name is not None:
        (tmp_path / name).write_text(FILES[name])
    file = None if name is None else str(tmp_path / name)
    assert infer([], input_file=file, prompt=trained) == expected
    standard_input(monkeypatch, FILES[name].encode())
    other = infer([], input_file=file, prompt=trained, input_template="the {food}")
    assert other == infer([f"the {text}" for text in TEXTS], prompt=trained, template="none")


def test_a_run_records_what_its_answers_need(infer, model_dir, tmp_path):
    files = tiny.save_files(tmp_path / "files")
    settings = {"input_template": "it: {text}", "verbalizers": ["yes", "no"], "missing": "empty"}
    sizes = {"prompt_length": 2, "batch_size": 8, "train_steps": 1, "quiet": True}
    lengths = {"inputs": 14, "targets": 4}
    settings |= {"feature_lengths": lengths, "data_dir": files, "model": str(model_dir)}
    train(model_dir=tmp_path / "run", **settings, **sizes)
    facts = load_prompt(tmp_path / "run" / "best").metadata
    assert facts["input_template"] == "it: {text}"
    assert facts["target_template"] == "{label}"
    assert (facts["feature_lengths"], facts["missing"]) == (lengths, "empty")
    best = str(tmp_path / "run" / "best")
    plain = infer([f"it: {text}" for text in TEXTS] + ["it: "], prompt=best, template="none")
    lines = [json.dumps({"text": text}) for text in [*TEXTS, None]]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    assert infer([], input_file=str(tmp_path / "in.jsonl"), prompt=best) == plain


def test_of_lines_the_template_is_told(infer, trained, recwarn):
    plain = infer(TEXTS, prompt=trained, template="none")
    assert not [each for each in recwarn if "template" in str(each.message)]
    with pytest.warns(UserWarning, match=r"trained with the input template 'food: \{food\}'.*none"):
        assert infer(TEXTS, prompt=trained) == plain


def test_a_template_that_is_a_field_alone_is_not_told(infer, prompt_dir, tmp_path, recwarn):
    facts = {"input_template": "{food}"}
    bare = str(save_prompt(tmp_path / "bare", load_prompt(prompt_dir), **facts))
    assert infer(TEXTS, prompt=bare) == infer(TEXTS, prompt=bare, template="none")
    assert not [each for each in recwarn if "template" in str(each.message)]


def test_without_a_template_records_are_text_and_that_is_told(infer, prompt_dir, tmp_path):
    (tmp_path / "in.csv").write_text(FILES["in.csv"])
    options = {"input_file": str(tmp_path / "in.csv"), "prompt": str(prompt_dir)}
    with pytest.warns(UserWarning, match="answered line by line, as text.*input_template"):
        assert len(infer([], **options)) == 1 + len(TEXTS)


def test_records_in_a_file_of_no_known_kind_too(infer, prompt_dir, recwarn):
    records = [json.dumps({"text": text}) for text in TEXTS]
    with pytest.warns(UserWarning, match="is answered line by line, as text.*template=none"):
        assert len(infer(records, prompt=str(prompt_dir))) == len(TEXTS)
    recwarn.clear()
    infer(records, prompt=str(prompt_dir), template="none")
    infer(TEXTS, prompt=str(prompt_dir))
    assert not [each for each in recwarn if "line by line" in str(each.message)]


def test_a_record_without_a_field_or_a_value_is_named(infer, trained, tmp_path):
    (tmp_path / "in.csv").write_text("food,id\nsoup,1\nNULL,2\n")
    options = {"input_file": str(tmp_path / "in.csv"), "prompt": trained}
    advice = "set missing to empty, or text if it is a word"
    with pytest.raises(ValueError, match=rf"in.csv, line 3: Field 'food' is NULL.*{advice}"):
        infer([], **options)
    assert len(infer([], missing="empty", **options)) == 2
    with pytest.raises(ValueError, match="every record gets an answer"):
        infer([], missing="drop", **options)
    (tmp_path / "in.csv").write_text("text\nsoup\n")
    with pytest.raises(ValueError, match="line 2: No field 'food'"):
        infer([], **options)


def test_lengths_and_the_way_to_answer_are_the_prompts(infer, trained, tmp_path):
    lengths = {"max_input_length": None, "max_length": None}
    long = ["soup " * 30]
    with pytest.warns(UserWarning, match="inputs longer than 12 tokens are cut"):
        cut = infer(long, prompt=trained, template="none", **lengths)
    with pytest.warns(UserWarning, match="longer than 12"):
        assert cut == infer(long, prompt=trained, template="none", max_input_length=12)
    writer = save_prompt(tmp_path / "writer", load_prompt(trained), predictions="generate")
    generated = infer(["soup"], prompt=str(writer), template="none", **lengths)
    three = {"max_length": 3, "predictions": "generate"}
    assert generated == infer(["soup"], prompt=trained, template="none", **three)
    assert "scores" in infer(["soup"], prompt=str(writer), predictions="rank", template="none")[0]


def test_members_and_named_prompts_have_templates_of_their_own(infer, trained, tmp_path):
    other = str(save_prompt(tmp_path / "other", load_prompt(trained), input_template="{food}!"))
    prompts = {"a": trained, "b": other}
    with pytest.raises(ValueError, match="members of the ensemble were trained with other templ"):
        infer(["soup"], prompts=prompts)
    lines = [json.dumps({"food": text, "p": "ab"[i % 2]}) for i, text in enumerate(TEXTS)]
    answers = infer(lines, prompts=prompts, prompt_field="p")
    for i, (text, found) in enumerate(zip(TEXTS, answers, strict=True)):
        alone = [f"food: {text}", f"{text}!"][i % 2]
        (expected,) = infer([alone], prompt=[trained, other][i % 2], template="none")
        assert found["scores"] == pytest.approx(expected["scores"], abs=1e-3)


@pytest.fixture
def of_three(trained, tmp_path):
    """Prompts beside one another, of which one takes a null for an empty text."""
    others = {"empty": "empty", "refuses": None, "drops": "drop"}
    values = load_prompt(trained)
    return {
        name: str(save_prompt(tmp_path / name, values, missing=missing))
        for name, missing in others.items()
    }


@pytest.mark.parametrize("order", [1, -1])
def test_what_a_null_is_does_not_depend_on_the_other_prompts(infer, of_three, order):
    prompts = dict(list(of_three.items())[::order])
    lines = [json.dumps({"food": None, "p": name}) for name in of_three]
    for template in (None, "food: {food}"):
        options = {"prompts": prompts, "prompt_field": "p", "input_template": template}
        assert len(infer(lines[:1], **options)) == 1
        for line in lines[1:]:
            with pytest.raises(ValueError, match=r"Field 'food' is null.* set missing to empty\.$"):
                infer([line], **options)
        assert len(infer(lines, missing="empty", **options)) == 3
    with pytest.raises(ValueError, match="Field 'food' is null"):
        infer(lines, prompts=prompts, input_template="{food}")
    same = {"a": of_three["empty"], "b": of_three["empty"]}
    assert len(infer(lines, prompts=same, input_template="{food}")) == 3


def test_a_record_that_names_no_prompt_is_told_which_there_are(infer, of_three):
    with pytest.raises(ValueError, match="it names the prompt ''; there are empty, refuses, drops"):
        infer([json.dumps({"food": "soup", "p": None})], prompts=of_three, prompt_field="p")


def test_lengths_that_differ_among_prompts_are_told(infer, trained, tmp_path, recwarn):
    longer = {"inputs": 20, "targets": 3}
    other = str(save_prompt(tmp_path / "b", load_prompt(trained), feature_lengths=longer))
    line = json.dumps({"food": "soup", "p": "a"})
    options = {"prompts": {"a": trained, "b": other}, "prompt_field": "p"}
    with pytest.warns(UserWarning, match=r"a: 12, b: 20\).* cut to 20 tokens: set max_"):
        infer([line], max_input_length=None, **options)
    recwarn.clear()
    infer([line], max_input_length=12, **options)
    infer([line], max_input_length=None, prompts={"a": trained, "b": trained}, prompt_field="p")
    assert not [each for each in recwarn if "other lengths" in str(each.message)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template": "none", "input_template": "{food}"}, "template=none is for lines"),
        ({"template": "{food}"}, "template must be one of prompt, none"),
    ],
)
def test_templates_that_contradict_are_refused(infer, trained, options, words):
    with pytest.raises(ValueError, match=words):
        infer(["soup"], prompt=trained, **options)
