"""Several prompts in `infer`: each record with its own, or all as an ensemble."""

import io
import json
import sys

import numpy as np
import pytest

from prompt_tuning_jax import TunedPrompt, load_bank, save_prompt
from prompt_tuning_jax.commands.inference import infer as command

SIZES = {"batch_size": 4, "max_input_length": 12}
RECORDS = [
    {"text": "the soup was good", "prompt": "judge"},
    {"text": "we had cake and it was very cold", "prompt": "writer"},
    {"text": "the tea was fresh", "prompt": "taster"},
    {"text": "bread", "prompt": "judge"},
    {"text": "the soup was good", "prompt": "taster"},
]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory, model):
    """Two prompts with label words of their own, and one that writes."""
    root = tmp_path_factory.mktemp("prompts")
    rng = np.random.default_rng(0)
    for name, length, layout, words in (
        ("judge", 5, "prefix", ["yes", "no"]),
        ("taster", 2, "suffix", ["sweet", "sour", "no"]),
        ("writer", 3, "after_bos", None),
    ):
        values = rng.normal(size=(length, 16)).astype(np.float32)
        facts = {"fingerprint": model.fingerprint, "verbalizers": words}
        save_prompt(root / name, TunedPrompt(values, layout), **facts)
    return {name: str(root / name) for name in ("judge", "taster", "writer")}


@pytest.fixture
def infer(model_dir, tmp_path, prompts):
    def run(lines, **options):
        source, target = tmp_path / "in", tmp_path / "out"
        source.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        given = {"model": str(model_dir), "input_file": str(source), "output": str(target)}
        command.infer(**(given | {"prompts": prompts} | SIZES | options))
        return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]

    return run


def lines(records=RECORDS):
    return [json.dumps(record) for record in records]


MIXED = {"input_template": "{text}", "prompt_field": "prompt", "max_length": 5}


def test_every_record_is_answered_as_by_its_prompt_alone(infer, prompts):
    answers = infer(lines(), **MIXED)
    assert [answer["prompt"] for answer in answers] == [record["prompt"] for record in RECORDS]
    for record, answer in zip(RECORDS, answers, strict=True):
        path = prompts[record["prompt"]]
        (alone,) = infer([record["text"]], prompts=None, prompt=path, max_length=5)
        assert answer["prediction"] == alone["prediction"]
        assert answer["score"] == pytest.approx(alone["score"], abs=2e-4)
        assert answer.get("scores") == pytest.approx(alone.get("scores"), abs=2e-4)


def test_ranked_and_written_answers_share_a_file(infer):
    answers = infer(lines(), **MIXED)
    assert list(answers[0]["scores"]) == ["yes", "no"]
    assert list(answers[2]["scores"]) == ["sweet", "sour", "no"]
    assert "scores" not in answers[1]


def test_all_may_write(infer):
    answers = infer(lines(), predictions="generate", **MIXED)
    assert all(set(answer) == {"prompt", "prediction", "score"} for answer in answers)


def test_an_ensemble_votes(infer, model, prompts):
    bank = load_bank(prompts)
    texts = [record["text"] for record in RECORDS]
    answers = infer(texts, verbalizers=["yes", "no"])
    labels, scores = model.classify(texts, ["yes", "no"], bank.ensemble(), **SIZES)
    assert [answer["prediction"] for answer in answers] == labels
    for answer, row in zip(answers, scores, strict=True):
        np.testing.assert_allclose(list(answer["scores"].values()), row, atol=1e-4)
        assert sum(answer["votes"].values()) == 3
        assert answer["votes"][answer["prediction"]] >= 2


@pytest.mark.slow
def test_an_ensemble_writes(infer, model, prompts):
    texts = [record["text"] for record in RECORDS]
    answers = infer(texts, predictions="generate", max_length=5)
    written = model.generate(texts, load_bank(prompts).ensemble(), max_length=5, **SIZES)
    assert [answer["prediction"] for answer in answers] == written.texts


def test_the_command_line(model_dir, prompts, infer, monkeypatch, capsys):
    expected = infer(lines(), **MIXED)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines())))
    command.main(
        [
            *("--model", str(model_dir), "--prompts", *prompts.values()),
            *("--prompt_field", "prompt", "--input_template", "{text}", "--batch_size", "4"),
            *("--max_input_length", "12", "--max_length", "5"),
        ]
    )
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "x"}, "either prompt, or prompts"),
        ({"prompts": None, **MIXED}, "prompt_field needs prompts"),
        (MIXED | {"input_template": None}, "input_template"),
        (MIXED | {"prompt_field": "text"}, "Line 1 .*'the soup was good'; there are judge"),
        (MIXED | {"prompt_field": "task"}, "Line 1.*task"),
        ({"input_template": "{text}"}, r"same answers.*judge: \['yes', 'no'\].*verbalizers"),
        (MIXED | {"prompts": 5}, "prompts must be a mapping or a list"),
    ],
)
def test_mistakes_are_named(infer, options, words):
    with pytest.raises(ValueError, match=words):
        infer(lines(), **options)
