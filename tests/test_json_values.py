"""What becomes of values on their way into JSON."""

import json
import types

import jax.numpy as jnp
import numpy as np

from prompt_tuning_jax.json_values import plain


def test_all_values_become_json():
    value = {
        1: (np.float32(0.5), jnp.int32(3)),
        "arrays": types.MappingProxyType({"a": np.array([[1, 2]]), "b": jnp.ones(2)}),
        "bytes": [b"caf\xc3\xa9", np.array([b"a", b"\xff"], object)],
        "not finite": [float("nan"), np.float32("inf"), np.array([1.0, -np.inf])],
        "as they are": ["text", None, True, 2],
    }
    expected = {
        "1": [0.5, 3],
        "arrays": {"a": [[1, 2]], "b": [1.0, 1.0]},
        "bytes": ["café", ["a", "�"]],
        "not finite": [None, None, [1.0, None]],
        "as they are": ["text", None, True, 2],
    }
    found = plain(value)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == expected
