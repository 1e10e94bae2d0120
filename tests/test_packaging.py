"""What pyproject.toml installs is all there is: a wheel lacks nothing that a checkout has."""

import ast
import importlib.metadata
import re
import sys
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
        own, *rest = package.split(".")
        top = folders.get(package) or folders[own].joinpath(*rest)
        listed |= {file for pattern in patterns for file in top.glob(pattern)}
    files = {file for top in folders.values() for file in top.rglob("*") if file.is_file()}
    others = {file for file in files if file.suffix not in (".py", ".pyc")}
    assert {file for file in others if file.name != "README.md"} <= listed


def test_what_the_library_imports_is_what_it_depends_on():
    distributions = importlib.metadata.packages_distributions()
    ours = {PROJECT["project"]["name"]}
    # What they import is of the extras, or of who loads what they read.
    extras = {"seqio_source.py", "t5x_plugin", "budget.py", "prompted_transformer.py"}
    extras |= {"http", "mirror.py", "ray"}  # of the server
    imported = set()
    for file in (ROOT / "prompt_tuning_jax").rglob("*.py"):
        if not extras & set(file.parts):
            imported |= imports_of(file)
    names = imported - set(sys.stdlib_module_names)
    needed = set().union(*(distributions.get(name, [name]) for name in names)) - ours
    declared = {re.split("[<>=]", each)[0] for each in PROJECT["project"]["dependencies"]}
    assert set(map(normal, needed)) == set(map(normal, declared))


def normal(name):
    """A distribution's name as registries compare it."""
    return re.sub("[-_.]+", "-", name).lower()


def imports_of(file):
    """The top-level modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name.split(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def test_there_is_a_console_script():
    module, _, function = PROJECT["project"]["scripts"]["prompt-tuning"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
