"""What tests share: the goldens' model, and real data where it is present."""

import contextlib
import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_jax.models.t5 import T5Config

# Why tests are skipped, and what runs them; conftest.py shows how many there are of each.
NEEDS_T5X = "need T5X: scripts/install_t5x.sh"
NEEDS_DATA_EXTRA = "need the [data] extra: pip install '.[data]', with Python 3.11 to 3.13"
NEEDS_MINILM = "need all-MiniLM-L6-v2: python scripts/fetch_minilm.py"
NEEDS_SHARED = "need real data: PROMPT_TUNING_SHARED=DIR"
# Seconds to wait for another process: against hangs only, and less than pytest waits for a test.
HANG = 1200
# A command after these takes Ctrl-C and SIGHUP also where the tests run with both ignored.
TAKE_SIGNALS = ("env", "--default-signal=INT,HUP")
GOLDENS = Path(__file__).parent / "goldens"
# The toy T5 1.1 of every golden that T5X and the reference made.
GOLDEN_CONFIG = T5Config(
    vocab_size=128,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
)


def shared_dir() -> Path | None:
    """Real data and large goldens: PROMPT_TUNING_SHARED, or `shared` beside the repository."""
    named = os.environ.get("PROMPT_TUNING_SHARED")
    path = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    return path if (path / "data").is_dir() else None


def assert_same(actual, expected) -> None:
    """The same numbers by another order of sums: within 1e-5 of the largest, 80 roundings of it."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@contextlib.contextmanager
def float64():
    """Computes in float64 what the library computes in float32.

    What then lies between our number and a golden is the golden's own rounding, the same on every
    machine, so that a bound may be close to it. Weights go through `widened` first.
    """
    promoting = jax.numpy_dtype_promotion("standard")  # of float32 that is written as such
    with jax.enable_x64(True), promoting, pytest.MonkeyPatch.context() as patch:
        patch.setattr(jnp, "float32", jnp.float64)
        yield


def widened(config: T5Config, params: dict) -> tuple[T5Config, dict]:
    """A model's config and weights, for `float64`."""
    wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    return dataclasses.replace(config, dtype=jnp.float64), wide


def slow(*values, **options):
    """A case that is only run with the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow, **options)
