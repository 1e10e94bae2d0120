"""What a model's generation_config.json says holds where a call does not; or it is refused."""

import dataclasses
import io
import json
import sys

import numpy as np
import pytest
import tiny

from prompt_tuning_jax import load_model
from prompt_tuning_jax.checkpoints.huggingface.generation import defaults_of, read_generation
from prompt_tuning_jax.commands.inference import infer as command
from prompt_tuning_jax.decoding.constraints import UNCONSTRAINED, Constraints
from prompt_tuning_jax.decoding.defaults import NO_DEFAULTS, GenerationDefaults
from prompt_tuning_jax.evaluation.scoring import evaluate_task

TEXTS = ["the soup was good", "we had cake and it was very cold", "bread"]
ASKED = {
    "num_beams": 3,
    "length_penalty": 0.6,
    "max_length": 9,
    "min_length": 4,
    "no_repeat_ngram_size": 2,
    "early_stopping": True,
}
SAME = {
    "beams": 3,
    "length_penalty": 0.6,
    "max_length": 8,  # without the start token
    "min_length": 3,
    "no_repeat_ngram": 2,
    "early_stopping": True,
}


def of(**fields) -> GenerationDefaults:
    return defaults_of(fields, "generation_config.json", vocab_size=100)


@pytest.fixture(scope="module")
def directory(tmp_path_factory, vocabulary):
    path = tiny.save_model(tmp_path_factory.mktemp("models") / "asking", vocabulary)
    (path / "generation_config.json").write_text(json.dumps(ASKED))
    return path


@pytest.fixture(scope="module")
def asking(directory):
    return load_model(directory)


# ---- what fields mean ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_length": 20}, {"max_length": 19}),
        ({"max_length": 20, "max_new_tokens": 30}, {"max_length": 30}),
        ({"min_length": 5}, {"min_length": 4}),
        ({"min_length": 5, "min_new_tokens": 2}, {"min_length": 2}),
        ({"num_beams": 4}, {"beams": 4, "length_penalty": 1.0}),
        ({"num_beams": 4, "length_penalty": 0.6}, {"beams": 4, "length_penalty": 0.6}),
        ({"num_beams": 4, "early_stopping": "never"}, {"early_stopping": "never"}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
        ({"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9}, {"top_p": 0.9}),
        ({"do_sample": True, "temperature": 0.7}, {"temperature": 0.7, "top_k": 50}),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"encoder_repetition_penalty": 1.2}, {"encoder_repetition_penalty": 1.2}),
        ({"encoder_no_repeat_ngram_size": 3}, {"encoder_no_repeat_ngram": 3}),
        ({"forced_bos_token_id": 7}, {"forced_first": 7}),
        ({"forced_eos_token_id": 1}, {"forced_last": (1,)}),
        ({"forced_eos_token_id": [1, 5]}, {"forced_last": (1, 5)}),
        ({"suppress_tokens": [4, 9], "bad_words_ids": [[3, 2]]}, {"banned": ((3, 2), (4,), (9,))}),
        ({"bad_words_ids": [[1], [6]], "eos_token_id": 1}, {"banned": ((6,),)}),
        ({"begin_suppress_tokens": [4]}, {"banned_first": (4,)}),
        ({"exponential_decay_length_penalty": [5, 1.1]}, {"length_decay": (5, 1.1)}),
        ({"renormalize_logits": True}, {"renormalized": True}),
    ],
)
def test_fields_are_obeyed(fields, expected):
    found = of(**fields)
    assert not found.refused
    assert expected.items() <= found.taken({}).items()


def test_tokens_that_begin_and_end_a_text_are_read():
    found = of(eos_token_id=[1, 7], decoder_start_token_id=5)
    how = found.resolved({})
    assert (how["eos_ids"], how["start_id"]) == ((1, 7), 5)
    assert of(eos_token_id=1).eos_ids == (1,)
    assert of().resolved({}) == NO_DEFAULTS.resolved({})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0, "typical_p": 1.0},
        {"temperature": 0.6, "top_k": 20, "top_p": 0.5, "length_penalty": 2.0, "do_sample": False},
        {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "top_k": None},
        {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "encoder_repetition_penalty": 1.0, "min_p": 0},
        {"use_cache": False, "output_scores": True, "transformers_version": "5.24.0"},
        {"typical_p": 0.5, "min_p": 0.1},  # of sampling, which it does not do
        {"diversity_penalty": 0.5, "num_beam_groups": 2},  # of beams, of which there is one
        {"penalty_alpha": 0, "guidance_scale": 1.0, "num_return_sequences": 1, "stop_strings": []},
        {"forced_bos_token_id": None, "suppress_tokens": [], "bad_words_ids": None},
    ],
)
def test_what_is_neutral_is_nothing(fields):
    found = of(**fields)
    assert found.taken({}) == {}
    assert found.resolved({})["constraints"] == UNCONSTRAINED


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"penalty_alpha": 0.6}, "penalty_alpha 0.6"),
        ({"guidance_scale": 1.5}, "guidance_scale 1.5"),
        ({"num_return_sequences": 4}, "num_return_sequences 4"),
        ({"sequence_bias": [[[3], 1.0]]}, "sequence_bias"),
        ({"stop_strings": ["."]}, "stop_strings"),
        ({"max_time": 3.0}, "max_time 3.0"),
        ({"force_words_ids": [[3]]}, "force_words_ids"),
        ({"do_sample": True, "typical_p": 0.5}, "typical_p 0.5, .* in sampling"),
        ({"do_sample": True, "min_p": 0.1}, "min_p 0.1, .* in sampling"),
        ({"do_sample": True, "temperature": 0.0}, "do_sample with temperature 0"),
        ({"num_beams": 4, "num_beam_groups": 2}, "num_beam_groups 2, .* in beam search"),
        ({"num_beams": "four"}, "num_beams 'four'"),
        ({"num_beams": True}, "num_beams True"),
        ({"num_beams": 10**20}, "num_beams 1000"),
        ({"max_length": 0}, "max_length 0"),
        ({"length_penalty": "long"}, "length_penalty 'long'"),
        ({"early_stopping": "soon"}, "early_stopping 'soon'"),
        ({"forced_bos_token_id": 100}, "forced_bos_token_id 100"),
        ({"eos_token_id": [1, -1]}, "eos_token_id"),
        ({"bad_words_ids": [3]}, "bad_words_ids"),
        ({"bad_words_ids": [[]]}, "bad_words_ids"),
        ({"repetition_penalty": 0}, "repetition_penalty 0"),
        ({"exponential_decay_length_penalty": 3}, "exponential_decay_length_penalty 3"),
    ],
)
def test_what_is_not_done_is_refused_by_name_when_text_is_generated(fields, named):
    found = of(**fields)
    with pytest.raises(ValueError, match=f"generation_config.json asks for {named}"):
        found.resolved({})


def test_what_is_refused_in_one_way_of_search_does_not_matter_in_another():
    sampled, grouped = of(do_sample=True, min_p=0.1), of(num_beams=4, num_beam_groups=2)
    assert sampled.resolved({"temperature": 0.0})["temperature"] == 0.0
    assert grouped.resolved({"beams": 1})["beams"] == 1
    assert of(min_p=0.1).resolved({}) == NO_DEFAULTS.resolved({})
    with pytest.raises(ValueError, match="min_p"):
        of(min_p=0.1).resolved({"temperature": 1.0})


def test_options_win_and_none_is_no_option():
    found = of(**ASKED, top_k=20, repetition_penalty=1.3)
    how = found.resolved(
        {"beams": 1, "max_length": None, "repetition_penalty": 1.0, "min_length": 0}
    )
    assert (how["max_length"], how["beams"]) == (8, 1)
    assert "length_penalty" not in how  # of beams
    assert how["constraints"] == Constraints(no_repeat_ngram=2, repetition_penalty=1.0)
    assert found.resolved({"beams": 1, "temperature": 0.5})["top_k"] == 20


def test_lengths_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"at least 29 tokens .min_length, in gen.* at most 5"):
        of(min_length=30).resolved({"max_length": 5})
    with pytest.raises(ValueError, match=r"at least 70 .* at most 64"):
        NO_DEFAULTS.resolved({"min_length": 70})


# ---- a model that asks -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_model_s_defaults_are_the_options_of_a_call(asking, model):
    texts, scores = asking.generate(TEXTS, batch_size=4)
    expected = model.generate(TEXTS, batch_size=4, **SAME)
    assert texts == expected.texts
    np.testing.assert_array_equal(scores, expected.scores)
    assert texts != model.generate(TEXTS, batch_size=4, max_length=8).texts
    inputs = np.array([[5, 6, 7, 1], [8, 9, 1, 0]])
    found, _ = asking.generate_tokens(inputs)
    np.testing.assert_array_equal(found, model.generate_tokens(inputs, **SAME)[0])


def test_without_its_defaults_a_model_generates_as_any_other(asking, model):
    plain = asking.replace(generation=NO_DEFAULTS)
    assert plain.generate(TEXTS, max_length=4).texts == model.generate(TEXTS, max_length=4).texts


def test_a_text_ends_at_any_token_that_ends_one(model):
    """And the token is not part of it."""
    usual = np.array(model.generate_tokens(np.array([[5, 6, 7, 1]]), max_length=8)[0])[0].tolist()
    assert len(set(usual[:3])) > 1
    ends = next(token for token in usual if token != usual[0])
    defaults = GenerationDefaults(eos_ids=(1, ends))
    text = model.vocabulary.decode([5, 6, 7])
    found = model.replace(generation=defaults).generate([text], max_length=8)
    assert found.texts == [model.vocabulary.decode(usual[: usual.index(ends)])]


def test_old_files_say_it_in_config_json(directory, tmp_path, vocabulary):
    path = tiny.save_model(tmp_path / "old", vocabulary)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | ASKED))
    found, expected = read_generation(path, 200), read_generation(directory, 200)
    assert found.taken({}) == expected.taken({})
    (path / "generation_config.json").write_text("{}")  # the newer file is the one that counts
    assert read_generation(path, 200).taken({}) == {}
    (path / "generation_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"generation_config.json holds a list"):
        load_model(path)


def test_a_model_that_asks_for_too_much_can_still_rank_and_be_scored(model):
    refusing = model.replace(generation=of(penalty_alpha=0.6, num_beams=3))
    with pytest.raises(ValueError, match="penalty_alpha"):
        refusing.generate(TEXTS)
    found = refusing.classify(TEXTS, ["yes", "no"])
    np.testing.assert_array_equal(found.scores, model.classify(TEXTS, ["yes", "no"]).scores)
    task = tiny.make_task(verbalizers=None)
    settings = {"batch_size": 8, "feature_lengths": tiny.LENGTHS}
    assert evaluate_task(refusing, task, **settings) == evaluate_task(model, task, **settings)


# ---- the command -----------------------------------------------------------------------------


def run(monkeypatch, *options):
    lines = "".join(text + "\n" for text in TEXTS).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    command.main([*options])


def test_the_command_says_what_it_takes_from_the_file(directory, asking, monkeypatch, capsys):
    run(monkeypatch, "--model", str(directory), "--beams", "2", "--no_repeat_ngram", "0")
    said = capsys.readouterr()
    expected = asking.generate(TEXTS, beams=2, no_repeat_ngram=0).texts
    assert [json.loads(line)["prediction"] for line in said.out.splitlines()] == expected
    (line,) = [line for line in said.err.splitlines() if "generation_config.json" in line]
    for part in ("length_penalty 0.6", "max_length 8", "min_length 3", "early_stopping True"):
        assert part in line
    assert "beams" not in line
    assert "no_repeat_ngram" not in line


@pytest.mark.slow
def test_the_command_says_nothing_where_it_takes_nothing(directory, model_dir, monkeypatch, capsys):
    run(monkeypatch, "--model", str(model_dir), "--max_length", "3")
    assert "config.json" not in capsys.readouterr().err
    run(monkeypatch, "--model", str(directory), "--verbalizers", "yes", "no")  # ranked
    assert "config.json" not in capsys.readouterr().err


def test_the_command_refuses_before_it_answers(directory, tmp_path, vocabulary, monkeypatch):
    path = tiny.save_model(tmp_path / "model", vocabulary)
    (path / "generation_config.json").write_text(json.dumps({"penalty_alpha": 0.6, "top_k": 4}))
    with pytest.raises(ValueError, match=r"penalty_alpha 0.6.*take it out of the file"):
        run(monkeypatch, "--model", str(path))


def test_a_config_of_none_is_the_default():
    config = command.CONFIG()
    names = [name for name in command.ANSWERING if name not in ("batch_size", "seed")]
    assert all(getattr(config, name) is None for name in names)
    assert dataclasses.replace(config, beams=4).beams == 4
