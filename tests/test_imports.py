"""The house, read from the library's sources: who may import whom, and how large a thing may be."""

import ast
import statistics
from pathlib import Path

import pytest

import prompt_tuning_jax

ROOT = Path(prompt_tuning_jax.__file__).parent
PACKAGE = "prompt_tuning_jax"
# Rooms, and files of no room, from the ground up: each may import what is below it, and what
# stands beside it.
FLOORS = (
    {
        "arguments",
        "banks",
        "bounds",
        "combine",
        "errors",
        "initializers",
        "json_values",
        "layout",
        "optim",
        "params",
        "prompts",
        "tuned_prompt",
    },
    {"vocabularies"},
    {"data", "methods", "models"},
    {"checkpoints", "decoding", "devices"},
    {"model", "embedding"},
    {"bundled", "settings"},
    {
        "evaluation",
        "interpretation",
        "planning",
        "serving",
        "t5x_plugin",
        "train",
        "training",
    },
    {"commands"},
    {"__main__"},
)
# Rooms that stand side by side and yet know nothing of each other.
APART = (("data", "models"), ("interpretation", "training"))
LINES, MEDIAN, NAMES = 350, 170, 16
FUNCTION = 60
LINKED = ("tasks", "gin_configs")  # rooms of the top level, that packages show within the library
LOOP = "train.py"  # the loop is read from top to bottom, and is as long as it is


def modules() -> dict[str, Path]:
    """Module -> its file, without the tasks and gin files that are linked into the library."""
    files = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in LINKED:
            files[".".join((PACKAGE, *(part for part in parts if part != "__init__")))] = path
    return files


FILES = modules()


def imported(path: Path) -> set[str]:
    """The library's modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & FILES.keys() or {node.module}
    return found & FILES.keys() - {PACKAGE}


# The package's own __init__.py imports everything, when it is asked for.
IMPORTS = {name: imported(path) - {name} for name, path in FILES.items() if name != PACKAGE}


def room(module: str) -> str:
    return module.split(".")[1]


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


def test_there_is_something_to_read():
    assert len(IMPORTS) > 100
    assert f"{PACKAGE}.data.batches" in IMPORTS[f"{PACKAGE}.training.set_up"]
    assert {room(module) for module in IMPORTS} == set().union(*FLOORS)


def test_no_two_modules_need_each_other():
    """However long the way round."""
    known, path = set(), []

    def visit(module: str) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in known:
            path.append(module)
            for other in sorted(IMPORTS[module]):
                visit(other)
            known.add(path.pop())

    for module in sorted(IMPORTS):
        visit(module)


@pytest.mark.parametrize("name", sorted(set().union(*FLOORS)))
def test_a_room_imports_what_is_below_or_beside_it(name):
    for module, others in IMPORTS.items():
        if room(module) == name:
            above = {other for other in others if floor(room(other)) > floor(name)}
            assert not above, module


@pytest.mark.parametrize(("one", "other"), [*APART, *(pair[::-1] for pair in APART)])
def test_rooms_that_stand_apart(one, other):
    for module, others in IMPORTS.items():
        if room(module) == one:
            assert other not in set(map(room, others)), module


def test_no_folder_shows_more_names_than_a_reader_can_hold():
    for folder in {path.parent for path in FILES.values()}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        rooms = [path for path in folder.iterdir() if (path / "__init__.py").is_file()]
        assert len(files) <= NAMES, folder
        assert len([path for path in rooms if path.name not in LINKED]) <= NAMES, folder


def test_every_room_says_what_it_is_for():
    for path in FILES.values():
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in FILES.values()}
    assert {path: n for path, n in lengths.items() if n > LINES} == {}
    assert statistics.median(lengths.values()) < MEDIAN


def test_functions_are_short():
    long = {}
    for path in FILES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > FUNCTION:
                    long[node.name] = (path.name, length)
    assert {file for file, _ in long.values()} <= {LOOP}, long
    assert len(long) <= 1
