"""scripts/install_t5x.sh: T5X from local checkouts into a new virtual environment."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "install_t5x.sh"
NAMES = ("t5x", "airio", "jestimator")
SOURCES = {name: os.environ.get(f"{name.upper()}_SOURCE") for name in NAMES}

needs_sources = pytest.mark.skipif(
    not all(SOURCES.values()),
    reason="need T5X's source: T5X_SOURCE=DIR AIRIO_SOURCE=DIR JESTIMATOR_SOURCE=DIR",
)


def install(*arguments, script=SCRIPT, **environment):
    inherited = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "XLA_FLAGS")}
    return subprocess.run(
        ["bash", str(script), *map(str, arguments)],
        env=inherited | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
    )


def arguments_for(sources):
    return [word for name, path in sources.items() for word in (f"--{name}", path)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--t5x",), "--t5x needs a value"),
        (("--t5", "x"), "unknown argument --t5"),
        (("--accelerator", "abacus"), "cpu, cuda or tpu, not abacus"),
        (("--airio", "absent"), "is no checkout of airio"),
    ],
)
def test_mistakes_are_named_before_anything_is_installed(arguments, message, tmp_path):
    done = install(*arguments, VIRTUAL_ENV=str(tmp_path / "venv"))
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "venv").exists()


def test_help_names_the_sources():
    printed = install("--help").stdout
    assert all(f"--{name}" in printed for name in (*NAMES, "venv", "accelerator"))


def test_every_source_is_pinned_to_a_commit():
    pins = re.findall(r"^  \[(\w+)\]=([0-9a-f]{40})$", SCRIPT.read_text(), re.MULTILINE)
    assert sorted(name for name, _ in pins) == sorted(NAMES)


@pytest.mark.parametrize("kind", ["plain", "git"])
def test_another_commit_than_the_pinned_one_is_reported(kind, tmp_path):
    checkout = tmp_path / "checkout"
    (checkout / "airio").mkdir(parents=True)
    if kind == "git":
        git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run([*git, "init", "--quiet"], check=True)
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "other"], check=True)
    # A mistake after it stops the script before it installs.
    done = install("--airio", checkout, "--accelerator", "abacus")
    assert done.returncode == 1
    assert ("is not a git checkout" if kind == "plain" else "tested is") in done.stderr


@needs_sources
@pytest.mark.slow
@pytest.mark.timeout(6000)
def test_a_new_environment_runs_t5x(tmp_path):
    """Twice into the same environment, from a copy of this working tree."""
    skipped = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "__pycache__")
    project = shutil.copytree(ROOT, tmp_path / "project", ignore=skipped)
    script = project / "scripts" / "install_t5x.sh"
    before = {name: sorted(os.listdir(path)) for name, path in SOURCES.items()}
    for _ in range(2):
        done = install(*arguments_for(SOURCES), script=script)
        assert done.returncode == 0, done.stderr
        assert "t5x.train, t5x.eval and t5x.infer are ready" in done.stdout
        assert "warning" not in done.stderr
    assert before == {name: sorted(os.listdir(path)) for name, path in SOURCES.items()}

    python = project / ".venv" / "bin" / "python"
    packages = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True).stdout
    assert not re.search("^(nvidia|jax-cuda)", packages, re.MULTILINE)
    program = "import t5x.train, t5x.eval, t5x.infer, prompt_tuning_jax.t5x_plugin.optimizer"
    subprocess.run([python, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    runs = "import t5x, pathlib; print(*pathlib.Path(t5x.__path__[0]).glob('configs/runs/*.gin'))"
    found = subprocess.run([python, "-c", runs], cwd=tmp_path, capture_output=True, text=True)
    assert "finetune.gin" in found.stdout
