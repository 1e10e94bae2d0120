"""The switch itself: with it on, a wrong array is refused wherever the library names shapes."""

import inspect
import sys

import array_checks
import jaxtyping
import numpy as np
import pytest

from prompt_tuning_jax.layout import attended
from prompt_tuning_jax.optim import token_cross_entropy

LOGITS, TARGETS = np.zeros((2, 3, 7), np.float32), np.zeros((2, 3), np.int32)


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (LOGITS[0], TARGETS),
        (LOGITS, TARGETS[:, :2]),
        (LOGITS, TARGETS.astype(np.float32)),
        (LOGITS.astype(np.int32), TARGETS),
    ],
    ids=["rank", "size", "dtype of targets", "dtype of logits"],
)
def test_a_wrong_array_is_refused(logits, targets):
    with pytest.raises(jaxtyping.TypeCheckError):
        token_cross_entropy(logits, targets)


def test_right_arrays_pass():
    assert token_cross_entropy(LOGITS, TARGETS).shape == (2, 3)
    assert attended(TARGETS).shape == (2, 3)


def test_every_module_that_names_shapes_is_checked():
    names = array_checks.modules_with_shapes()
    assert len(names) > 30
    loaded = [sys.modules[name] for name in names if name in sys.modules]
    assert len(loaded) > 10
    for module in loaded:
        loader = inspect.getattr_static(module, "__loader__")
        assert type(loader).__module__.startswith("jaxtyping"), module.__name__
