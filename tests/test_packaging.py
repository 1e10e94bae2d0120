"""What pyproject.toml installs is all there is: a wheel lacks nothing that a checkout has."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
PLACES = {ROOT / folder: name for name, folder in SETTINGS["package-dir"].items()}


def test_every_package_is_listed():
    found = set()
    for top, name in PLACES.items():
        files = [*top.rglob("*.py"), *top.rglob("*.gin")]
        found |= {".".join([name, *file.parent.relative_to(top).parts]) for file in files}
    assert found == set(SETTINGS["packages"])


def test_every_gin_file_is_package_data():
    top = ROOT / "gin_configs"
    listed = SETTINGS["package-data"]["prompt_tuning_jax.gin_configs"]
    installed = {file for pattern in listed for file in top.glob(pattern)}
    assert installed >= set(top.rglob("*.gin"))
