"""What pyproject.toml installs is all there is: a wheel lacks nothing that a checkout has."""

import importlib
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETTINGS = PROJECT["tool"]["setuptools"]
PLACES = {ROOT / folder: name for name, folder in SETTINGS["package-dir"].items()}


def test_every_package_is_listed():
    found = set()
    for top, name in PLACES.items():
        files = [*top.rglob("*.py"), *top.rglob("*.gin")]
        found |= {".".join([name, *file.parent.relative_to(top).parts]) for file in files}
    assert found == set(SETTINGS["packages"])


def test_every_other_file_is_package_data():
    folders = {name: top for top, name in PLACES.items()}
    listed = set()
    for package, patterns in SETTINGS["package-data"].items():
        parent, _, last = package.rpartition(".")
        top = folders.get(package) or folders[parent] / last
        listed |= {file for pattern in patterns for file in top.glob(pattern)}
    files = {file for top in folders.values() for file in top.rglob("*") if file.is_file()}
    others = {file for file in files if file.suffix not in (".py", ".pyc")}
    assert {file for file in others if file.name != "README.md"} <= listed


def test_there_is_a_console_script():
    module, _, function = PROJECT["project"]["scripts"]["prompt-tuning"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
