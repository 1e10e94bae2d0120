"""compare_recipes.py: the recipes are what their names say, whatever the defaults become."""

import ast
from pathlib import Path

import pytest

from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training import rules

ROOT = Path(__file__).resolve().parents[1]
# What a program's arguments set, for all recipes alike.
SIZES = {"prompt_length", "train_steps", "batch_size"}


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import compare_recipes

    return compare_recipes


def test_the_papers_recipe_is_the_preset(program):
    lines = (ROOT / "gin_configs/runs/prompt_tuning.gin").read_text().splitlines()
    settings = [line.split(" = ") for line in lines if line and not line.startswith("#")]
    preset = {name.lower(): ast.literal_eval(value) for name, value in settings}
    assert set(preset) >= SIZES
    assert program.RECIPES["paper"] == {k: v for k, v in preset.items() if k not in SIZES}


def test_the_default_recipe_is_what_train_does(program):
    recipe, config = program.RECIPES["average"], TrainConfig()
    does = {name: getattr(config, name) for name in recipe}
    assert does["optimizer"] is None  # of a prompt Adafactor
    does |= {"average_decay": config.averaging, "dropout_rate": config.dropout}
    does |= {"optimizer": "adafactor", "learning_rate": rules.pace_of(config).rate}
    assert recipe == does


def test_every_other_recipe_says_what_it_changes(program):
    for name, recipe in program.RECIPES.items():
        assert recipe.keys() >= program.PAPER.keys(), name
