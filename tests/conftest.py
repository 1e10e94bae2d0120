"""Strict switches for every test: two simulated devices, no silent rank promotion."""

import atexit
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
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest
import tiny

from prompt_tuning_jax import FrozenModel, load_model

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


def pytest_collection_modifyitems(items):
    if importlib.util.find_spec("t5x") is None:
        for item in items:
            if item.get_closest_marker("t5x"):
                item.add_marker(pytest.mark.skip(reason="needs T5X: scripts/install_t5x.sh"))


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
def one_device(monkeypatch):
    """Hides the second simulated device."""
    only = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: only)
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)
