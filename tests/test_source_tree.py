"""A clone's root on the path, with a regular install: the package is then the clone's own.

Python puts there the current directory (`python -m`, `python -c`, a notebook) or the script's.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
# Python runs it at its start. The tests' environment may have an editable install, whose finder
# would find what a clone lacks; a regular install has none.
SITECUSTOMIZE = """
import sys
editable = "__editable___prompt_tuning_jax"
sys.meta_path = [each for each in sys.meta_path if not each.__module__.startswith(editable)]
"""
PROGRAM = """
import prompt_tuning_jax.gin_configs, prompt_tuning_jax.tasks
from gin.resource_reader import system_path_reader
for module in prompt_tuning_jax, prompt_tuning_jax.gin_configs, prompt_tuning_jax.tasks:
    print(module.__file__)
print(system_path_reader("prompt_tuning_jax/gin_configs/t5x/runs/train.gin").name)
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """This checkout's packages, as git has them."""
    return lay(tmp_path_factory.mktemp("clone"), {folder: folder for folder in PLACES.values()})


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What a regular install puts into site-packages."""
    places = {name.replace(".", "/"): folder for name, folder in PLACES.items()}
    site = lay(tmp_path_factory.mktemp("site"), places)
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return site


def lay(top, places):
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for place, folder in places.items():
        if (top / place).is_symlink():
            (top / place).unlink()
        shutil.copytree(ROOT / folder, top / place, symlinks=True, ignore=ignored)
    return top


def run(site, folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def homes(done):
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.splitlines()]


def test_elsewhere_it_is_the_installed_one(site, tmp_path):
    assert all(home.is_relative_to(site) for home in homes(run(site, tmp_path, "-c", PROGRAM)))


def test_in_the_root_it_is_the_clone_whole(clone, site):
    """As `python -c` and a notebook start."""
    assert all(home.is_relative_to(clone) for home in homes(run(site, clone, "-c", PROGRAM)))


def test_beside_a_script_too_wherever_that_is_called(clone, site, tmp_path):
    (clone / "script.py").write_text(PROGRAM)
    done = run(site, tmp_path, clone / "script.py")
    assert all(home.is_relative_to(clone) for home in homes(done))


def test_a_command_starts_in_the_root(clone, site):
    done = run(site, clone, "-m", "prompt_tuning_jax", "train", "--help")
    assert done.returncode == 0, done.stderr
    assert "prompt-tuning train" in done.stdout


@pytest.mark.t5x
def test_t5x_starts_in_the_root(clone, site):
    """As far as it gets without MODEL_DIR: every gin file is read, every name in them known."""
    experiment = "prompt_tuning_jax/gin_configs/t5x/experiments/bundled_sentiment.gin"
    done = run(site, clone, "-m", "t5x.train", f"--gin_file={experiment}")
    assert done.returncode
    assert "No bindings specified for 'MODEL_DIR/gin.macro'" in done.stderr, done.stderr
