"""Who may import whom, read from the library's sources: the rooms stay apart, and no circles."""

import ast
from pathlib import Path

import pytest

import prompt_tuning_jax

ROOT = Path(prompt_tuning_jax.__file__).parent
PACKAGE = "prompt_tuning_jax"
# What a command line starts; the loop's file ends with the command that runs it.
COMMANDS = {
    "combine",
    "command",
    "completion",
    "convert",
    "evaluate",
    "exchange",
    "infer",
    "interpret",
    "plan",
    "show_task",
    "task_report",
    "train",
}
# A room, or a file of no room -> what else it may import. Those that are left out are above these.
MAY_IMPORT = {
    "initializers": set(),
    "json_values": set(),
    "layout": set(),
    "losses": set(),
    "mistakes": set(),
    "optim": set(),
    "settings": set(),
    "prompts": {"initializers"},
    "models": {"layout", "prompts"},
    "data": {"json_values", "layout"},
    "decoding": set(),
    "devices": {"models"},
    "checkpoints": {"data", "devices", "json_values", "layout", "models", "optim", "quantize"},
    "interpretation": {"checkpoints", "data", "json_values"},
}


def modules() -> dict[str, Path]:
    """Module -> its file, without the tasks and gin files that are linked into the library."""
    files = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in ("tasks", "gin_configs"):
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


def test_there_is_something_to_read():
    assert len(IMPORTS) > 80
    assert f"{PACKAGE}.data.batches" in IMPORTS[f"{PACKAGE}.training.set_up"]


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


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_room_imports_what_it_may(name):
    others = {
        other
        for module, others in IMPORTS.items()
        if room(module) == name
        for other in others
        if room(other) != name
    }
    assert {room(other) for other in others} <= MAY_IMPORT[name], sorted(others)


def test_nothing_imports_a_command_but_commands_and_what_starts_them():
    for module, others in IMPORTS.items():
        if room(module) not in COMMANDS | {"cli", "__main__"}:
            assert not {room(other) for other in others} & COMMANDS, module
