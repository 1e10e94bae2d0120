"""tests/constraints: what pyproject.toml allows has been run, from its oldest to its newest."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(lines):
    found = [Requirement(line) for line in lines]
    return {each.name: each.specifier for each in found if each.name != PROJECT["name"]}


def pins(name):
    lines = (ROOT / "tests" / "constraints" / name).read_text().splitlines()
    found = requirements(line for line in lines if not line.startswith("#"))
    return {name: Version(str(pin).removeprefix("==")) for name, pin in found.items()}


ASKED = requirements(sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"]))
OLDEST, NEWEST = pins("oldest.txt"), pins("newest.txt")


def bound(name, operator):
    (version,) = [each.version for each in ASKED[name] if each.operator == operator]
    return Version(version)


def test_all_that_is_asked_for_is_pinned():
    assert list(ASKED) == list(OLDEST) == list(NEWEST)


@pytest.mark.parametrize("name", ASKED)
def test_the_pins_are_the_bounds(name):
    """The oldest release is the lower bound; the upper bound is the series after the newest."""
    if ASKED[name] == f"=={OLDEST[name]}":
        assert NEWEST[name] == OLDEST[name]
        return
    assert OLDEST[name] == bound(name, ">=")
    assert NEWEST[name] in ASKED[name]
    below = bound(name, "<").release
    *series, last = NEWEST[name].release[: len(below)]
    assert (*series, last + 1) == below
