"""One training run that many tests look at; T5X's own code may promote dtypes."""

import jax
import pytest
import t5x_runs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    before = jax.config.jax_numpy_dtype_promotion
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # in T5X's threads too
    try:
        return (yield)
    finally:
        jax.config.update("jax_numpy_dtype_promotion", before)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A base checkpoint of step 3, without a prompt."""
    return t5x_runs.write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def run(base, tmp_path_factory):
    """MODEL_DIR after twelve steps of prompt tuning, from 3 to 15, with checkpoints every four."""
    model_dir = tmp_path_factory.mktemp("run")
    t5x_runs.train(model_dir, base)
    return model_dir
