"""The gin files that come installed: an experiment stands alone; no include depends on order."""

import itertools
import re
from pathlib import Path

import gin
import jax.numpy as jnp
import numpy as np
import pytest
from common import NEEDS_DATA_EXTRA

from prompt_tuning_jax import gin_configs, load_model, optim
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.settings import command_line
from prompt_tuning_jax.settings.compare_config import CompareConfig
from prompt_tuning_jax.settings.parts.recipe import RecipeConfig
from prompt_tuning_jax.settings.setting import macro_name, settings_of
from prompt_tuning_jax.settings.train_config import TrainConfig

ROOT = Path(gin_configs.__file__).parent
EXPERIMENTS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("experiments/*.gin"))
TUNING = [name for name in EXPERIMENTS if "pretrain" not in name]
SEQIO = [name for name in TUNING if "MIXTURE_OR_TASK_MODULE" in (ROOT / name).read_text()]


@pytest.fixture(autouse=True)
def clean():
    yield
    gin.clear_config()


def parse(files, *bindings):
    compares = any("prompt-tuning compare" in (ROOT / file).read_text() for file in files)
    config = CompareConfig if compares else TrainConfig
    return command_line.parse(config, [*(f"--gin_file={file}" for file in files), *bindings])


@pytest.mark.parametrize("name", TUNING)
def test_an_experiment_needs_nothing_but_its_own_file(name):
    config = parse([name], "--model_dir=runs/x")
    assert config.model_dir == "runs/x"
    assert config.task in BUNDLED_TASKS or config.input_template or config.task_module
    assert config.model


def third_update(**start):
    optimizer = optim.OPTIMIZERS["adafactor"](0.3, **start)
    grads = [{"prompt": jnp.arange(6.0) + i**3} for i in range(3)]
    state = optimizer.init(grads[0])
    for each in grads:
        update, state = optimizer.update(each, state, grads[0])
    return np.asarray(update["prompt"])


def test_models_of_the_paper_count_adafactors_steps_from_their_checkpoints():
    files = [f"models/{path.name}" for path in ROOT.glob("models/t5_1_1_lm100k_*.gin")]
    assert len(files) == 5
    expected = third_update(start_step=1_100_000)
    assert not np.allclose(third_update(), expected)
    for file in ("experiments/sst2_files.gin", *files):
        parse([file])
        np.testing.assert_array_equal(third_update(), expected)
        gin.clear_config()


@pytest.mark.data
@pytest.mark.parametrize("name", SEQIO)
def test_an_experiments_task_is_registered_and_has_what_its_prompt_starts_from(name):
    pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)
    from prompt_tuning_jax.data.seqio_source import seqio_task

    config = parse([name])
    task = seqio_task(config.task, config.task_module, load_model("bundled").vocabulary)
    assert {"train", config.eval_split} <= set(task.splits)
    assert bool(task.verbalizers) == (config.prompt_init == "class_labels")
    assert task.metrics


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_header_says_what_score_hardware_and_command(name):
    header = re.match(r"(#.*\n)+", (ROOT / name).read_text()).group()
    for word in ("Reproduces:", "Expected:", "Hardware:", "Command:", name):
        assert word in header, f"{name} lacks {word}"


@pytest.mark.parametrize(
    "files",
    [
        ("models/bundled.gin", "prompts/uniform.gin", "runs/prompt_tuning.gin"),
        ("models/t5_1_1_lm100k_xl.gin", "runs/model_tuning.gin"),
    ],
)
def test_files_may_come_in_any_order(files):
    configs = [parse(order) for order in itertools.permutations(files)]
    assert all(config == configs[0] for config in configs)
    assert configs[0].batch_size == 32


def test_the_papers_recipe_is_whole_and_the_papers():
    """Every part of a recipe is set, so that it stays the paper's whatever the defaults become."""
    text = (ROOT / "runs/prompt_tuning.gin").read_text()
    parts = set(settings_of(RecipeConfig)) - {"parameterization_size"}
    assert {macro_name(name) for name in parts} <= set(re.findall(r"^([A-Z_]+) =", text, re.M))
    config = parse(["models/bundled.gin", "runs/prompt_tuning.gin"])
    assert (config.prompt_length, config.train_steps, config.batch_size) == (100, 30_000, 32)
    assert (config.optimizer, config.learning_rate, config.schedule) == (
        "adafactor",
        0.3,
        "constant",
    )
    assert (config.prompt_parameterization, config.average_decay) == ("direct", 0)
    assert (config.label_smoothing, config.z_loss, config.loss_normalization) == (0, 1e-4, "sum")


def test_the_files_of_one_kind_set_the_same_macros_and_no_others_do():
    """So an experiment may include one of each kind, in any order."""
    set_by = {
        kind: {
            macro
            for path in (ROOT / kind).glob("*.gin")
            for macro in re.findall(r"^([A-Z_0-9]+) =", path.read_text(), re.MULTILINE)
        }
        for kind in ("models", "prompts", "runs")
    }
    for a, b in itertools.combinations(set_by.values(), 2):
        assert not a & b
    assert all(set_by.values())
