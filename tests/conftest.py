"""Strict switches for every test: two simulated devices, arrays as annotated, no promotion."""

import atexit
import collections
import gc
import importlib.util
import os
import shutil
import tempfile

import xla_flags

os.environ["XLA_FLAGS"] = xla_flags.devices(2)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Programs compiled by one test serve the others, those in other processes too.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# First: from here on whatever is imported of the library has its arrays checked.
import array_checks
import jax
import pytest
import tiny
from common import NEEDS_T5X

from prompt_tuning_jax import FrozenModel, load_model

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")

# Traced programs are many objects that live long: looking through them took a tenth of the time.
gc.set_threshold(100_000, 50, 100)


# Tests of the server, whose files import what the server and its clients need.
OF_SERVER = [
    f"test_serve_{of}.py"
    for of in (
        "command",
        "hostile",
        "http",
        "page",
        "ray",
        "ray_front",
        "readme",
        "reference",
        "whole",
    )
]
_NEEDED = ("fastapi", "uvicorn", "httpx", "openai", "schemathesis")
MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
collect_ignore = OF_SERVER if MISSING else []


def pytest_collection_modifyitems(items):
    if importlib.util.find_spec("t5x") is None:
        for item in items:
            if item.get_closest_marker("t5x"):
                item.add_marker(pytest.mark.skip(reason=NEEDS_T5X))


SLOW = pytest.StashKey[int]()


def pytest_configure(config):
    config.stash[SLOW] = 0


def pytest_deselected(items):
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        slow[0].config.stash[SLOW] += len(slow)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of pytest-xdist's processes
        session.config.workeroutput["slow"] = session.config.stash[SLOW]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Every process of pytest-xdist selects the same tests."""
    node.config.stash[SLOW] = getattr(node, "workeroutput", {}).get("slow", 0)


def pytest_terminal_summary(terminalreporter, config):
    """What was not run, and what runs it."""
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    reasons = [where[2].removeprefix("Skipped: ") for where in skipped if isinstance(where, tuple)]
    lines = [f"{count} {reason}" for reason, count in collections.Counter(reasons).most_common()]
    if MISSING:
        needed = f"pip install '.[dev]' ({', '.join(MISSING)})"
        lines.append(f"{len(OF_SERVER)} files of tests of the server need {needed}")
    if config.stash[SLOW]:
        lines.append(f"{config.stash[SLOW]} are slow: scripts/test.sh -m slow")
    if lines:
        terminalreporter.section("not run")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """What one file compiled is no use to the next: kept, it took six gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def vocabulary():
    return tiny.make_vocabulary()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, vocabulary):
    """The tiny T5 as a Hugging Face directory."""
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny", vocabulary)


@pytest.fixture(scope="session")
def model(model_dir) -> FrozenModel:
    return load_model(model_dir)


@pytest.fixture
def wrong_arrays():
    """Lets the library's own checks see arrays that its annotations forbid."""
    with array_checks.off():
        yield


@pytest.fixture
def one_device(monkeypatch):
    """Hides the second simulated device."""
    only = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: only)
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)
