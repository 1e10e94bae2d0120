"""Values on their way into JSON, and out of it."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_jax.json_values import json_object, plain


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


def test_an_object_is_read():
    for text in ('{"a": [1]}', b'{"a": [1]}'):
        assert json_object(text, "x.json", "Fetch it again.") == {"a": [1]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a" 1}', r"x\.json is not valid JSON \(.*, column 6\)\. Fetch it again\.$"),
        ('{"a": 1,\n"b" 2}\n', r"is not valid JSON \(.*, line 2, column 5\)\. Fetch it again\.$"),
        (b"", r"is not valid JSON \(.*, column 1\)\. Fetch"),
        (b'{"a": "\xff"}', "is not valid JSON .*0xff.* Fetch"),
        ("[" * 100000, "is not valid JSON .* Fetch"),
        ("[1]", r"x\.json holds a list, not a JSON object\. Fetch it again\.$"),
    ],
)
def test_what_is_no_object_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        json_object(text, "x.json", "Fetch it again.")
