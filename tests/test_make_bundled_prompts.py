"""The pre-built prompts: made, scored and described by one program, and whole where they ship."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from prompt_tuning_jax import load_model, load_prompt
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
PROMPTS = BUNDLED.parent / "prompts"
needs_model = pytest.mark.skipif(
    not (BUNDLED / "model.safetensors").exists(), reason="the bundled model is not made yet"
)


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import make_bundled_prompts

    return make_bundled_prompts


@pytest.fixture
def shipped(program):
    """The names of the prompts that ship."""
    if not PROMPTS.is_dir():
        pytest.skip("the pre-built prompts are not made yet")
    return list(program.RECIPES)


def test_every_task_and_the_ensemble_have_a_recipe(program):
    assert set(BUNDLED_TASKS) < set(program.RECIPES)
    members = {each.seed for each in program.RECIPES.values() if each.task == "bundled_woman"}
    assert members == {0, 1, 2, 3, 4}


@needs_model
@pytest.mark.slow
def test_a_prompt_with_its_card(program, tmp_path):
    work, output = tmp_path / "work", tmp_path / "prompts"
    arguments = ["bundled_woman_seed1", "--steps=1", f"--work={work}", f"--output={output}"]
    program.main(arguments)
    folder = output / "bundled_woman_seed1"
    prompt, card = load_prompt(folder), (folder / "CARD.md").read_text()
    np.testing.assert_array_equal(prompt.values, load_prompt(work / folder.name / "best").values)
    assert (prompt.metadata["task"], prompt.metadata["seed"]) == ("bundled_woman", 1)
    assert f"{prompt.metadata['test_scores']['accuracy']:.1f} % on test" in card
    assert load_model("bundled").fingerprint in card
    assert "--seed 1" in card
    assert str(tmp_path) not in card + json.dumps(dict(prompt.metadata))

    (folder / "prompt.json").unlink()
    program.main([*arguments, "--force"])
    assert (folder / "prompt.json").exists()


@needs_model
def test_a_prompt_that_is_there_is_not_made_again(program, tmp_path, capsys):
    (tmp_path / "bundled_woman").mkdir()
    (tmp_path / "bundled_woman" / "CARD.md").touch()
    program.main(["bundled_woman", f"--output={tmp_path}"])
    assert "already there" in capsys.readouterr().out
    assert not (tmp_path / "bundled_woman" / "prompt.json").exists()


def test_an_unknown_name_is_refused_with_those_there_are(program, capsys):
    with pytest.raises(SystemExit):
        program.main(["bundled_nothing"])
    assert "bundled_woman_seed4" in capsys.readouterr().err


def test_shipped_prompts_are_of_the_shipped_models(program, shipped):
    models = {name: load_model(name).fingerprint for name in program.MODELS}
    for name in shipped:
        fingerprint = models[program.RECIPES[name].model]
        prompt, card = load_prompt(PROMPTS / name), (PROMPTS / name / "CARD.md").read_text()
        assert prompt.metadata["base_model_fingerprint"] == fingerprint
        assert fingerprint in card
        assert prompt.shape == (20, 192)
        scores = prompt.metadata["scores"]["accuracy"], prompt.metadata["test_scores"]["accuracy"]
        assert re.search(f"{scores[0]:.1f} % on validation .* {scores[1]:.1f} % on test", card)
