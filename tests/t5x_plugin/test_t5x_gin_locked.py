"""Every experiment and task module, read as T5X reads them; T5X need not be installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import t5x_signatures
from common import NEEDS_DATA_EXTRA

pytestmark = pytest.mark.data
pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)
HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def errors_of(what: str) -> dict[str, str]:
    """What was read -> its error, or ""."""
    done = subprocess.run(
        [sys.executable, HERE / "parse_as_t5x.py", what],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def errors_of_experiments():
    return errors_of("experiments")


@pytest.fixture(scope="module")
def errors_of_task_modules():
    return errors_of("task_modules")


EXPERIMENTS = sorted(path.name for path in ROOT.glob("gin_configs/t5x/experiments/*.gin"))
TASK_MODULES = sorted(path.stem for path in ROOT.glob("tasks/[a-z]*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_reaches_training(errors_of_experiments, name):
    assert errors_of_experiments[name] == ""


@pytest.mark.parametrize("name", TASK_MODULES)
@pytest.mark.slow
def test_a_task_module_can_be_imported_once_gin_is_locked(errors_of_task_modules, name):
    assert errors_of_task_modules[name] == ""


@pytest.mark.t5x
def test_the_stand_in_is_as_t5x_is():
    assert json.loads(t5x_signatures.FILE.read_text()) == t5x_signatures.of_t5x()
