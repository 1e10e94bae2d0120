"""The Python with which scripts make their virtual environment, among stand-ins for it."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "quickstart.sh": "-m prompt_tuning_jax compare",
    "test.sh": "-m pytest -n 2",
    "install_t5x.sh": "-",
}
# Says its version; notes whatever else it is told; makes an environment with itself in it.
STAND_IN = """#!/bin/bash
[ "$1" != -c ] || {{ [ "$2" = "import pip" ] || echo {version}; exit; }}
echo {version} "$@" >> "$CALLS"
[ "$2" != venv ] || {{ mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; }}
[ "$1" != - ] || {{ echo "cuInit" >&2; exit ${{T5X_WORKS:-0}}; }}
"""
TOOLS = ("bash", "basename", "cat", "cp", "dirname", "mkdir", "mktemp", "realpath", "rm", "sed")


@pytest.fixture
def clone(tmp_path):
    """What the scripts need of a clone, and a PATH without Python."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("*.py"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def python(path, version):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STAND_IN.format(version=version))
    path.chmod(0o755)


def run(clone, script, **environment):
    """A script's exit status, what it says, and what it has Python do."""
    given = {"PATH": str(clone / "bin"), "CALLS": str(clone / "calls")} | environment
    command = [clone / "scripts" / script]
    done = subprocess.run(command, cwd=clone, env=given, capture_output=True, text=True)
    calls = clone / "calls"
    return done.returncode, done.stderr, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({"python3": "3.12", "python3.13": "3.13"}, "3.12"),
        ({"python3": "3.10", "python3.11": "3.11", "python3.12": "3.12"}, "3.12"),
        ({"python3": "3.15", "python3.13": "3.13"}, "3.13"),
        ({"python3.11": "3.11", "python3.14": "3.14"}, "3.11"),
    ],
    ids=["python3", "too old", "too new", "none"],
)
def test_the_first_python_that_serves_makes_the_environment(clone, script, there, chosen):
    for name, version in there.items():
        python(clone / "bin" / name, version)
    status, errors, calls = run(clone, script)
    assert status == 0, errors
    assert calls[0].startswith(f"{chosen} -m venv ")
    assert calls[-1].startswith(f"{chosen} {SCRIPTS[script]}")


@pytest.mark.parametrize(("version", "extras"), [("3.13", "data,dev"), ("3.14", "dev")])
def test_tests_go_without_tensorflow_where_there_is_none(clone, version, extras):
    python(clone / "bin" / "python3", version)
    status, errors, calls = run(clone, "test.sh")
    assert status == 0, errors
    assert calls[1].endswith(f"--editable .[{extras}]")


@pytest.mark.parametrize(
    ("script", "newest"), [("quickstart.sh", "3.14"), ("install_t5x.sh", "3.13")]
)
@pytest.mark.parametrize("there", [{}, {"python3": "3.10"}, {"python3": "2.7"}])
def test_where_none_serves_it_says_what_to_install(clone, script, newest, there):
    for name, version in there.items():
        python(clone / "bin" / name, version)
    status, errors, calls = run(clone, script)
    assert (status, calls) == (1, [])
    assert f"there is no Python 3.11 to {newest}: install one" in errors.splitlines()[-1]


def test_the_variable_wins(clone):
    python(clone / "bin" / "python3", "3.12")
    python(clone / "mine", "3.11")
    _, _, calls = run(clone, "quickstart.sh", PYTHON=str(clone / "mine"))
    assert calls[0] == "3.11 -m venv .venv"


@pytest.mark.parametrize(("version", "message"), [("3.10", "is Python 3.10"), (None, "not start")])
def test_and_is_not_replaced_where_it_does_not_serve(clone, version, message):
    python(clone / "bin" / "python3", "3.12")
    if version:
        python(clone / "mine", version)
    status, errors, calls = run(clone, "quickstart.sh", PYTHON=str(clone / "mine"))
    assert (status, calls) == (1, [])
    assert message in errors


@pytest.mark.parametrize(
    ("made_with", "environment", "message"),
    [
        ("3.10", {}, "was made with Python 3.10, and this needs Python 3.11 to 3.14: remove it"),
        ("3.11", {"PYTHON": "python3"}, "was made with Python 3.11, which is not that of PYTHON="),
        (None, {}, "is a broken virtual environment: remove it"),
    ],
)
def test_an_environment_of_another_python_is_named(clone, made_with, environment, message):
    python(clone / "bin" / "python3", "3.12")
    if made_with:
        python(clone / ".venv" / "bin" / "python", made_with)
    else:
        (clone / ".venv" / "bin").mkdir(parents=True)
        (clone / ".venv" / "bin" / "python").symlink_to(clone / "gone")
    status, errors, calls = run(clone, "quickstart.sh", **environment)
    assert (status, calls) == (1, [])
    assert f".venv {message}" in errors


def test_an_environment_that_serves_is_kept(clone):
    python(clone / ".venv" / "bin" / "python", "3.11")
    status, errors, calls = run(clone, "test.sh")
    assert status == 0, errors
    assert [call.split()[2] for call in calls] == ["pip", "pytest"]


def test_installing_t5x_says_what_it_does_and_not_what_tensorflow_says(clone):
    python(clone / "bin" / "python3", "3.12")
    status, errors, _ = run(clone, "install_t5x.sh")
    assert status == 0
    steps = [line for line in errors.splitlines() if "step " in line]
    assert [step.split(":")[1] for step in steps] == [f" step {i} of 4" for i in range(1, 5)]
    assert "cuInit" not in errors


def test_but_shows_it_where_t5x_does_not_start(clone):
    python(clone / "bin" / "python3", "3.12")
    status, errors, _ = run(clone, "install_t5x.sh", T5X_WORKS="1")
    assert status == 1
    assert "cuInit" in errors
    assert errors.endswith("T5X is installed but does not work; see the error above\n")
