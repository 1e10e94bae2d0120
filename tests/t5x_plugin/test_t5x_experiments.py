"""Every experiment trains, evaluates and infers: real programs on made-up release files.

The base checkpoint has a few thousand random weights in place of the experiment's own model.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import t5x_runs
import task_records

from prompt_tuning_jax import save_prompt

pytestmark = pytest.mark.t5x
EXPERIMENTS = sorted(
    path.name for path in Path(__file__).parents[2].glob("gin_configs/t5x/experiments/*.gin")
)
OWN_FILES = ("models/bundled.gin", "prompts/sampled_vocabulary.gin", "runs/train.gin")
# A family of tasks, by its module -> a task in it.
TASKS = {
    "bundled": "bundled_place",
    "glue": "taskless_glue_sst2_v002",
    "glue_transfer": "taskless_glue_mrpc_from_qqp_zeroshot_v002",
    "language_modeling": "text_prefix_lm",
    "qa": "squad_v010_allanswers",
    "sentinel": "sentinel_taskless_super_glue_cb_v102",
    "super_glue": "taskless_super_glue_cb_v102",
}
# The experiments of families that have some, one for each.
REPRESENTATIVES = {
    "bundled": "bundled_place.gin",
    "glue_transfer": "qqp_to_mrpc.gin",
    "qa": "squad_to_mrqa.gin",
    "super_glue": "super_glue_cb.gin",
}
# In place of the experiment's own model, in a file: a command line cannot import what it binds.
SMALL = f"""
from __gin__ import dynamic_registration

from prompt_tuning_jax.models.t5 import config

INITIAL_CHECKPOINT_PATH = 'checkpoint_{t5x_runs.BASE_STEP}'
VOCABULARY_FILE = 'bundled'
TASK_FEATURE_LENGTHS = {{'inputs': 64, 'targets': 16}}
BATCH_SIZE = 2

T5_CONFIG = @config.T5Config()
config.T5Config:
  vocab_size = {t5x_runs.CONFIG.vocab_size}
  emb_dim = {t5x_runs.CONFIG.emb_dim}
  num_heads = {t5x_runs.CONFIG.num_heads}
  head_dim = {t5x_runs.CONFIG.head_dim}
  mlp_dim = {t5x_runs.CONFIG.mlp_dim}
  num_encoder_layers = 1
  num_decoder_layers = 1
  dtype = %ACTIVATION_DTYPE
  dropout_rate = %DROPOUT_RATE
"""
TRAINING = {
    "TRAIN_STEPS": t5x_runs.BASE_STEP + 2,
    "EVAL_PERIOD": 2,
    "EVAL_STEPS": 1,
    "CHECKPOINT_PERIOD": 2,
    "PROMPT_LENGTH": 5,
    "MODEL_DIR": "run",
}


@pytest.fixture
def here(base, tmp_path):
    """A directory with the base checkpoint, and the data sets' release files below data/."""
    (tmp_path / base.name).symlink_to(base)
    (tmp_path / "small.gin").write_text(SMALL)
    task_records.write_release(tmp_path / "data")
    return tmp_path


@pytest.fixture(scope="module")
def prompt(tmp_path_factory):
    values = np.random.default_rng(0).normal(size=(5, t5x_runs.CONFIG.emb_dim))
    return str(save_prompt(tmp_path_factory.mktemp("prompt"), values.astype(np.float32)))


def named(family: str) -> dict[str, str]:
    """The settings that name a family's task."""
    module = f"prompt_tuning_jax.tasks.{family}"
    return {"MIXTURE_OR_TASK_NAME": TASKS[family], "MIXTURE_OR_TASK_MODULE": module}


def run(here: Path, program: str, *files: str, **settings: Any) -> None:
    is_bundled = "bundled_" in f"{files}{settings}"  # tasks that have no data to be read
    data = {} if is_bundled else {"DATA_DIR": "data"}
    files = [*(f"{t5x_runs.GIN}/{file}" for file in files), "small.gin"]
    process = t5x_runs.start(here, program, files, data | settings)
    t5x_runs.finish(process, here, program)


def check_training(here: Path, *files: str, has_metrics: bool = True, **settings: Any) -> None:
    """Two steps, after which every split with metrics has some."""
    run(here, "train", *files, **TRAINING, **settings)
    assert (here / "run" / "checkpoint_5").is_dir()
    assert (here / "run" / "prompts" / "5" / "prompt.json").is_file()
    written = list((here / "run" / "inference_eval").glob("*-metrics.jsonl"))
    assert bool(written) == has_metrics
    assert all(json.loads(path.read_text().splitlines()[-1])["step"] == 5 for path in written)


@pytest.mark.parametrize("family", TASKS)
def test_a_family_of_tasks_trains(here, family):
    if family in REPRESENTATIVES:
        check_training(here, f"experiments/{REPRESENTATIVES[family]}")
    else:
        has_metrics = family != "language_modeling"
        check_training(here, *OWN_FILES, has_metrics=has_metrics, **named(family))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - set(REPRESENTATIVES.values())))
def test_an_experiment_trains(here, name):
    check_training(here, f"experiments/{name}")


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(TASKS) - {"language_modeling"}))
def test_a_family_of_tasks_is_evaluated(here, prompt, family):
    files = ("models/bundled.gin", "runs/eval.gin")
    run(here, "eval", *files, EVAL_OUTPUT_DIR="scores", PROMPT_FILE=prompt, **named(family))
    assert list((here / "scores" / "inference_eval").glob("*-metrics.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("family", TASKS)
def test_a_family_of_tasks_is_inferred(here, prompt, family):
    files = ("models/bundled.gin", "runs/infer.gin")
    run(here, "infer", *files, INFER_OUTPUT_DIR="answers", PROMPT_FILE=prompt, **named(family))
    written = (here / "answers").glob("*.jsonl-00000-of-00001")  # one for each task of a mixture
    lines = [line for path in written for line in path.read_text().splitlines()]
    assert lines
    assert all("prediction" in json.loads(line) for line in lines)
