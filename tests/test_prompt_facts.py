"""A prompt's facts are of the kind that the library goes by, whoever wrote them."""

import json

import numpy as np
import pytest

from prompt_tuning_jax import load_prompt, save_prompt

VALUES = np.ones((2, 3), np.float32)
WRONG = [
    ("layout", 3),
    ("layout", ["prefix"]),
    ("visibility", True),
    ("base_model", {"a": 1}),
    ("base_model_fingerprint", [1]),
    ("vocabulary_hash", 1e30),
    ("task", ["a"]),
    ("verbalizers", 3),
    ("verbalizers", ["a", None]),
    ("verbalizers", {"0": ["a"]}),
    ("step", "2"),
    ("step", True),
    ("step", -1),
    ("scores", [0.5]),
    ("values_sha256", 3),
    ("prompt_length", "2"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_of_another_kind_is_named(tmp_path, name, value):
    save_prompt(tmp_path, VALUES, task="before", step=3)
    facts = json.loads((tmp_path / "prompt.json").read_text())
    (tmp_path / "prompt.json").write_text(json.dumps(facts | {name: value}))
    with pytest.raises(ValueError, match=rf"prompt\.json: {name} must be .*Delete it"):
        load_prompt(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("step", "2"), ("task", 3), ("verbalizers", 3)])
def test_nothing_is_written_that_would_be_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"metadata: {name} must be"):
        save_prompt(tmp_path, VALUES, **{name: value})
    assert not list(tmp_path.iterdir())


def test_other_facts_may_be_anything(tmp_path):
    facts = {"note": [1, {"a": None}], "task": None, "verbalizers": {"0": "no"}, "step": 0}
    save_prompt(tmp_path, VALUES, **facts)
    found = load_prompt(tmp_path).metadata
    assert found["note"] == [1, {"a": None}]
    assert found["verbalizers"] == {"0": "no"}
